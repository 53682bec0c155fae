"""What theory says of a number, drawn beside it."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from samkeras.errors import InputError, nearest
from samkeras.experiment.options.groups import Config
from samkeras.experiment.options.values import as_text
from samkeras.experiment.runs.result import Result
from samkeras.experiment.studies.picture import Picture
from samkeras.experiment.studies.points import name_panel
from samkeras.workload import Workload

Rule = Callable[[Any], float]


def stable_lambda_max(config: Config) -> float:
    """The largest eigenvalue of the Hessian at a minimum that SGD of one step size does
    not leave: 2 / eta (Wu, Ma and E 2018); with momentum beta 2 (1 + beta) / eta, over
    1 + 2 beta if that is Nesterov's (Cohen et al. 2021, "Gradient descent on neural
    networks typically occurs at the edge of stability"). The decay of the weights adds
    its number to each eigenvalue, of which what is measured knows nothing."""
    beta = config.momentum
    shrunk = 1 + 2 * beta if config.nesterov else 1
    stable = 2 * (1 + beta) / (shrunk * config.learning_rate)
    return max(stable - config.weight_decay, 0.0)


def stable_s_2(config: Config) -> float:
    """The largest non-uniformity s_2 at such a minimum, of batches of B of n examples
    without replacement, and no momentum: (1 / eta) sqrt(B (n - 1) / (n - B)), which
    follows from the variance of a batch's mean; of whole batches there is none."""
    n = config.target.load().task.load(config).info.num_train
    batch = config.batch_size
    if n is None or batch >= n:
        return math.inf
    return math.sqrt(batch * (n - 1) / (n - batch)) / config.learning_rate


BOUNDS: dict[str, Rule] = {
    "stable_lambda_max": stable_lambda_max,
    "stable_s_2": stable_s_2,
}


class Bound(NamedTuple):
    """What theory says of the runs of a panel."""

    panel: str
    name: str
    value: float


def find_bounds(picture: Picture, results: Sequence[Result]) -> list[Bound]:
    """The bounds of a picture: of each panel, those of its runs, each once, that have a
    place on its axis."""
    if picture.bounds is None:
        return []
    rule = _list_rules(results[0].config.target.load())[picture.bounds]
    name = picture.bounds.replace("_", " ")
    found = (
        Bound(name_panel(picture, vars(result.config)), name, rule(result.config))
        for result in results
    )
    return [
        bound
        for bound in dict.fromkeys(found)
        if math.isfinite(bound.value) and (bound.value > 0 or not picture.log_y)
    ]


def check_bounds(
    pictures: Iterable[Picture], workload: Workload, configs: Iterable[Config]
) -> None:
    """Checks that there are the rules that pictures name, and that they hold for runs.

    Raises:
        InputError: there is none of a name, or its theory is of other optimizers.
    """
    known = _list_rules(workload)
    for picture in pictures:
        if picture.bounds is None:
            continue
        if picture.bounds not in known:
            raise InputError(
                f"{picture.name}: bounds must be one of {', '.join(known)}. Received: "
                f"{picture.bounds}{nearest(picture.bounds, known)}"
            )
        of = _OF.get(picture.bounds)
        for config in configs if of else ():
            if other := _find_other(picture.bounds, config):
                raise InputError(
                    f"{picture.name}: bounds {picture.bounds} are of {of}. "
                    f"Received: {other}"
                )


_OF = {
    "stable_lambda_max": "SGD at a constant rate",
    "stable_s_2": "SGD without momentum at a constant rate",
}


def _find_other(name: str, config: Config) -> str:
    """The option by which a run is another one than theory has; "": there is none."""
    if config.optimizer != "sgd":
        return f"--optimizer {config.optimizer}"
    if config.lr_schedule != "step":
        return f"--lr_schedule {config.lr_schedule}"
    if config.lr_milestones:
        return f"--lr_milestones {as_text(config.lr_milestones)}"
    if name == "stable_s_2" and config.momentum:
        return f"--momentum {config.momentum:g}"
    return ""


def _list_rules(workload: Workload) -> Mapping[str, Rule]:
    return {**BOUNDS, **workload.bounds}
