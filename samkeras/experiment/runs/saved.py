"""A finished run, for code of one's own: what its folder holds, and what it makes."""

import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from samkeras.errors import InputError, nearest
from samkeras.experiment.options.compose import compose
from samkeras.experiment.options.config import option_types, parse_fields
from samkeras.experiment.options.groups import (
    Config,
    Dataset,
    LabelNoise,
    Pretrained,
    Recipe,
)
from samkeras.experiment.options.session import Session
from samkeras.experiment.options.strict_yaml import read_yaml
from samkeras.experiment.options.targets import (
    Target,
    list_workloads,
    resolve_target,
)
from samkeras.experiment.tracking.journal import Journal, find_journals

if TYPE_CHECKING:  # they import keras, whose backend the run decides
    from samkeras.data.splits import Splits
    from samkeras.experiment.runs.run import Run
    from samkeras.model import SAMModel

Which = Literal["best", "last", "start"]


@dataclass(frozen=True)
class SavedRun:
    """A finished run.

    Attributes:
        folder: its folder.
        config: its options.
        numbers: the last value of each number that it recorded, such as
            best_val_accuracy, val_loss or grad_cosine, its seconds, num_params and
            num_nonzero.
        params: what else it recorded, as text, such as keras_version.
        fingerprint: what it was told apart by.
        record: what its record is known by; a run that is trained again has another.
        place: the MLflow store and experiment that it is recorded in.
    """

    folder: Path
    config: Config
    numbers: Mapping[str, float]
    params: Mapping[str, str] = field(repr=False)
    fingerprint: str
    record: str
    place: tuple[str, str]

    @cached_property
    def data(self) -> "Splits[Any]":
        """Its data, read when the examples are first asked for: `data.train`, with the
        labels that it was trained on, and `data.validation`.

        A warning says where the workload has been edited since.

        Raises:
            InputError: the data are no longer there, or are others.
        """
        from samkeras.experiment.runs.bootstrap import with_labels
        from samkeras.experiment.runs.data import add_noise

        config, run = self.config, self.run
        splits = run.task.load(self._with_places())
        known = self.params.get("data_digest")
        if known is not None and (not splits.content or splits.content.digest != known):
            digest = splits.content and splits.content.digest
            raise InputError(
                f"{self._name_files(digest)} is not the file that {self.folder} was "
                "trained on"
            )
        if self.fingerprint not in run.find_marks(splits):
            warnings.warn(
                f"{config.target} has been edited since {self.folder} was trained: "
                "its model and data may be others now",
                stacklevel=3,
            )
        is_noisy = LabelNoise.of(config).label_noise > 0
        is_relabelled = Recipe.of(config).bootstrap
        if not is_noisy and not is_relabelled:
            return splits

        def read() -> tuple[Any, Any]:
            train: Any = splits.train
            if is_noisy:
                train, *_ = add_noise(config, splits)
            if is_relabelled:
                train = with_labels(train, self.folder)
            return train, splits.validation

        return replace(splits, read=read)

    def model(self, which: Which = "best") -> "SAMModel":
        """Its model, with its masks, compiled as it was trained; optimizer and method
        are as they were at the end.

        Args:
            which: "best" (default), the weights of the best epoch, "last", those of
                the last one, or "start", those before the training, none of which is
                pruned yet.

        Raises:
            InputError: the weights are no longer there, or are of another model than
                the workload builds now.

        Examples:
            >>> run = samkeras.load_run(folder)
            >>> first, last = run.model("start"), run.model("last")
            >>> first.count_params() == last.count_params()
            True
        """
        from samkeras.experiment.runs.build import (
            build_model,
            check_memory,
            compile_model,
            count_params,
            undone,
        )
        from samkeras.experiment.runs.run import Run

        if which not in get_args(Which):
            names = ", ".join(get_args(Which))
            raise InputError(f"which must be one of {names}. Received: {which}")
        path = self.folder / f"{which}.weights.h5"
        if which != "start" and not path.is_file():
            raise InputError(f"{path} is not there: the run's weights were removed")
        run, splits = self.run, self.data
        found = Run(self._with_backbone())
        check_memory(run.task.devices(), int(self.numbers["num_params"]))
        num_steps = run.task.steps_per_epoch(self.config, splits)
        if num_steps is None:  # until they are on disk
            _ = splits.train
            num_steps = run.task.steps_per_epoch(self.config, splits)
        with undone():
            model = build_model(found, splits.info)
            num_params = count_params(model.trainable_variables)
            if num_params != self.numbers["num_params"]:
                raise self._misfit(
                    f"have {self.numbers['num_params']:,} parameters, and it builds a "
                    f"model of {num_params:,}"
                )
            compile_model(run, model, num_steps or 1)
            model.optimizer.build(model.trainable_variables)
        if model.variables[0].value.dtype != model.variables[0].dtype:
            raise InputError(
                "the run was trained in float64, which JAX has after "
                "jax.config.update('jax_enable_x64', True)"
            )
        if which == "start":
            return model
        try:
            model.load_weights(path)
        except OSError as error:
            raise InputError(f"{path} is damaged: {_in_short(error)}") from None
        except (ValueError, KeyError) as error:
            raise self._misfit(f"do not fit its model ({_in_short(error)})") from None
        return model

    def _with_places(self) -> Config:
        """Its options, with the paths of its data and of the network that it began with
        from where its command was started, unless they have moved since."""
        from samkeras.data.backbones import is_backbone_alone

        data, config = Dataset.of(self.config), self._with_backbone()
        paths = {"data_dir": data.data_dir}
        known = self.params.get("data_digest")
        backbone = Pretrained.of(config).backbone
        # Else the data set is the name of one.
        if known is not None and not is_backbone_alone(known, backbone):
            paths["dataset"] = data.dataset
        return replace(config, **self._find(paths))

    def _with_backbone(self) -> Config:
        """Its options, with the path of the network that it began with."""
        backbone = Pretrained.of(self.config).backbone
        paths = {"backbone": backbone} if self._has_file else {}
        return replace(self.config, **self._find(paths))

    @property
    def _has_file(self) -> bool:
        """Whether it began with a network of a file."""
        from samkeras.data.backbones import is_file

        return is_file(Pretrained.of(self.config).backbone)

    def _find(self, paths: Mapping[str, str | None]) -> dict[str, str]:
        """Those of some paths that are there, from where its command was started."""
        folder = self.params.get("started_in", "")
        there = {n: Path(folder, os.path.expanduser(p)) for n, p in paths.items() if p}
        # A function's name stands behind its file's.
        files = {n: str(p).partition(".py:") for n, p in there.items()}
        return {
            name: str(there[name])
            for name, (start, mark, _) in files.items()
            if Path(f"{start}.py" if mark else start).exists()
        }

    def _name_files(self, digest: str | None) -> str:
        """The options that name its files, of which these are the digest now."""
        from samkeras.data.backbones import is_backbone_alone

        dataset = f"--dataset {self.params.get('dataset')}"
        if not self._has_file:
            return dataset
        backbone = Pretrained.of(self._with_backbone()).backbone
        named = f"--backbone {Pretrained.of(self.config).backbone}"
        is_alone = is_backbone_alone(digest, backbone)
        return named if is_alone else f"{named} or {dataset}"

    @cached_property
    def run(self) -> "Run":
        """What it was a training of."""
        from samkeras.experiment.runs.run import Run

        return Run(self.config)

    def _misfit(self, what: str) -> InputError:
        return InputError(
            f"{self.config.target} has been edited since {self.folder} was trained: "
            f"the run's weights {what}"
        )


def _in_short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def load_run(
    folder: str | os.PathLike[str], workload: str | os.PathLike[str] | None = None
) -> SavedRun:
    """A finished run of `run.py`, its config, data, model and numbers.

    Keras takes the run's backend, if it is not imported yet.

    Args:
        folder: the run's, such as runs/NAME.
        workload: what its target is, where it is no longer where it was: the path of
            its .py file, or package.module. None (default): it still is.

    Returns:
        The run; data and model are made when they are asked for.

    Raises:
        InputError: there is no such run, it is not finished, or it cannot be loaded
            here.

    Examples:
        >>> run = samkeras.load_run(folder)  # such as runs/mnist_mlp_w1_sam0.05_s0_1a2b
        >>> run.config.sam, run.config.rho
        (True, 0.05)
        >>> model = run.model()  # of the best epoch; run.model("last")
        >>> batches = run.data.validation.batches(run.config.batch_size)
        >>> scores = model.evaluate(batches, verbose=0, return_dict=True)
        >>> bool(abs(scores["accuracy"] - run.numbers["best_val_accuracy"]) < 1e-6)
        True
    """
    path = Path(folder).expanduser()
    journal = _find_journal(path)
    tags, failure = dict(journal.head.get("tags", {})), ""
    for record, _ in journal.read(0):
        tags.update(record.get("tags", {}))
    recorded = journal.read_run()
    if recorded.status != "FINISHED":
        if recorded.status == "FAILED":
            failure = f" ({tags.get('failure', 'for no reason that is known')})"
        raise InputError(
            f"the run in {path} is not finished but {recorded.status}{failure}; the "
            "command that began it goes on with it"
        )
    _choose_backend(path, recorded.params["keras_backend"])
    target = _find_target(path, tags, journal, workload)
    config = _read_config(path / "config.yaml", target)
    seconds = ((recorded.ended or recorded.started) - recorded.started) / 1000
    numbers = {
        "seconds": seconds,  # of records of old, which do not say
        **recorded.metrics,
        "num_params": int(recorded.params["num_params"]),
        "num_nonzero": int(recorded.params["num_nonzero_params"]),
    }
    mark = tags["fingerprint"]
    place = (journal.head["store"], journal.head["experiment"])
    return SavedRun(path, config, numbers, recorded.params, mark, journal.id, place)


def _find_journal(folder: Path) -> Journal:
    """The newest journal of a run's folder."""
    if not folder.is_dir():
        beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
        names = [each.name for each in beside if (each / "config.yaml").is_file()]
        raise InputError(
            f"there is no folder {folder.absolute()}{nearest(folder.name, names)}"
        )
    journals = [each for each in find_journals(folder) if each.path.parent == folder]
    if journals and "grid" in journals[-1].head.get("tags", {}):
        raise InputError(
            f"{folder} holds the records of a grid; load one of its runs, a folder "
            f"beside it"
        )
    if not journals or not (folder / "config.yaml").is_file():
        raise InputError(
            f"{folder} holds no run: a run's folder has a journal and a config.yaml"
        )
    return journals[-1]


def _choose_backend(folder: Path, backend: str) -> None:
    """Has keras take a run's backend, if it is not imported yet."""
    if "keras" in sys.modules:
        import keras

        current = keras.backend.backend()
    else:
        current = os.environ.setdefault("KERAS_BACKEND", backend)
    if current != backend:
        raise InputError(
            f"the run in {folder} was trained on {backend}, and keras is on {current} "
            f"here: start Python with KERAS_BACKEND={backend}"
        )


def _find_target(
    folder: Path,
    tags: Mapping[str, str],
    journal: Journal,
    workload: str | os.PathLike[str] | None,
) -> Target:
    """What the run's workload is, by what it recorded or what is given."""
    name = tags["workload"]
    known = tags.get("target")
    if known is None and name in list_workloads():
        known = f"workloads/{name}"  # before there was that tag
    given = known if workload is None else os.fspath(workload)
    hint = "give it: load_run(folder, workload='its .py file')"
    if given is None:
        raise InputError(
            f"the run in {folder} does not say where its workload {name} is, of the "
            f"experiment {journal.head['experiment']}; {hint}"
        )
    try:
        target = resolve_target(given)
    except InputError as error:
        if workload is not None:
            raise
        raise InputError(
            f"the workload of the run in {folder} is no longer at {given} ({error}); "
            f"{hint}"
        ) from None
    if not isinstance(target, Target) or target.name != name:
        raise InputError(f"{given} is not the workload {name} of the run in {folder}")
    return target


def _read_config(path: Path, target: Target) -> Config:
    """A run's options; those that are new since have their defaults, which are without
    effect."""
    options = parse_fields(read_yaml(path), path, target, option_types(target))
    session = set(vars(Session()))
    kept = {name: value for name, value in options.items() if name not in session}
    return compose(target)(**kept)
