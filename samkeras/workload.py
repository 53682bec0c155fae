"""What a task is: its data, its model, its loss and what is reported of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from samkeras.data.splits import DataInfo, Splits
from samkeras.errors import InputError, nearest
from samkeras.task import Task

if TYPE_CHECKING:
    import keras

    from samkeras.methods import Method
    from samkeras.model import SAMModel

__all__ = ["DataInfo", "Splits", "Workload"]

Mode = Literal["max", "min"]


@dataclass(frozen=True)
class Workload:
    """A task. Its numbers live in configs/<name>.yaml.

    What is called to train alone, `build`, `loss` as a function of the config,
    `metrics` and `score`, imports keras itself in workloads/: a command that finds all
    its runs finished does without, and takes seconds less.

    Attributes:
        task: what kind of training it is, of samkeras.experiment.tasks.
        load: config -> Splits. Cheap: the examples are read later.
        build: (config, DataInfo) -> an uncompiled SAMModel of config.width_mult.
        loss: a keras loss or the name of one, a function of labels and predictions, or
            config -> a loss.
        metrics: keras metrics beside the loss: names, or functions that make them.
        monitor: the validation metric that is reported, such as val_accuracy.
        mode: whether "max" or "min" of it is best.
        score: (labels, weights, predictions) of the whole validation set, arrays whose
            first axis is the example -> names and values of what can only be measured
            on all of it. None: nothing.
        methods: methods of its own that `--method` takes, by their names: config -> a
            Method.
        bounds: what theory says of its numbers, that pictures draw, by the names of its
            rules: config -> a number.
        version: raised by a change of what it imports, so that runs from before it are
            trained again; a change of its own module has that effect by itself.

    Raises:
        InputError: `mode` is another.

    Examples:
        >>> from samkeras.data.images import load_images
        >>> from samkeras.experiment.tasks import Supervised
        >>> from samkeras.models.mlp import build_mlp
        >>> workload = samkeras.Workload(
        ...     task=Supervised(),
        ...     load=lambda config: load_images(config.dataset, config.data_dir),
        ...     build=lambda config, info: build_mlp(
        ...         info.input_shape, info.num_outputs, [512], config.width_mult
        ...     ),
        ...     loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        ...     metrics=["accuracy"],
        ...     monitor="val_accuracy",
        ...     mode="max",
        ... )
        >>> workload.metric_names
        ['accuracy']
    """

    task: Task
    load: Callable[[Any], Splits[Any]]
    build: "Callable[[Any, Any], SAMModel]"
    loss: "str | keras.losses.Loss | Callable[..., Any]"
    metrics: "Sequence[str | Callable[[], keras.metrics.Metric]]"
    monitor: str
    mode: Mode
    score: Callable[..., dict[str, float]] | None = None
    methods: "Mapping[str, Callable[[Any], Method]]" = field(default_factory=dict)
    bounds: Mapping[str, Callable[[Any], float]] = field(default_factory=dict)
    version: int = 1

    def __post_init__(self) -> None:
        modes = get_args(Mode)
        if self.mode not in modes:
            hint = nearest(str(self.mode).lower(), modes)
            raise InputError(
                f"mode of a Workload must be max or min. Received: {self.mode!r}{hint}"
            )

    @property
    def metric_names(self) -> list[str]:
        """The names of its metrics, as keras logs them."""
        return [m if isinstance(m, str) else m().name for m in self.metrics]
