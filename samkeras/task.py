"""What a kind of training is: the contract of the classes in experiment/tasks."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from samkeras.data.splits import Splits

if TYPE_CHECKING:  # they import keras, and what only looks up runs needs none
    from samkeras.calls import Training
    from samkeras.data.batches import Batches
    from samkeras.model import SAMModel


class Validation(Protocol):
    """What a model is validated by after each epoch."""

    def evaluate(self, pause: Callable[[], None]) -> "Training[dict[str, float]]":
        """Scores of the model, by the names that they are recorded by: a generator that
        asks for the steps of an evaluation, if it takes any.

        Args:
            pause: to be called about every second; may raise.
        """
        ...

    def illustrate(self, folder: Path) -> list[Path]:
        """Writes files that show what the model does."""
        ...


class Task(Protocol):
    """How the model of a workload is trained on its data, whatever these are.

    Attributes:
        options: the groups of options that its runs need, see
            samkeras.experiment.options.
        is_shared: whether several processes can train a run together.
    """

    options: ClassVar[tuple[type[Any], ...]]
    is_shared: bool

    def devices(self) -> list[str]:
        """The devices that a run uses, as keras.distribution.list_devices names
        them."""
        ...

    def load(self, config: Any) -> Splits[Any]:
        """The part of its workload's data that a run uses. It reads no more of the
        config than the data depend on, so that runs share them."""
        ...

    def check(self, config: Any, splits: Splits[Any]) -> None:
        """Checks a run's options against its data.

        Raises:
            InputError: they do not fit.
        """
        ...

    def check_devices(self, config: Any) -> None:
        """Checks a run's options against the devices that it is to be trained on.

        Raises:
            InputError: they do not fit.
        """
        ...

    def list_scores(self, workload: Any) -> list[str] | None:
        """The names of the numbers that validations of a workload give; None: the
        first one tells them."""
        ...

    def batches(
        self, config: Any, data: Any, stream: str, model: "SAMModel"
    ) -> "Batches":
        """Batches to train the model on, in the order of one of the run's random
        streams; of several processes, this one's part of each."""
        ...

    def validation(self, config: Any, data: Any, model: "SAMModel") -> Validation:
        """What the model is validated by."""
        ...

    def pruning_batch(self, config: Any, data: Any, model: "SAMModel") -> Any:
        """The whole batch that snip scores weights on, the same on all processes."""
        ...

    def steps_per_epoch(self, config: Any, splits: Splits[Any]) -> int | None:
        """Steps from one validation to the next; None before the data are on disk."""
        ...
