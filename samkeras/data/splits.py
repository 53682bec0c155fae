"""A data set: what is known of it at once, and its examples, read later."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar, cast

from samkeras.data.augmentation import Transform
from samkeras.data.examples import ArrayExamples, Arrays
from samkeras.data.padding import Collate

Data = TypeVar("Data")
"""What a set is of: Examples, or a Game."""


@dataclass(frozen=True)
class DataInfo:
    """What is known of a data set without reading it.

    Attributes:
        name: the data set's name.
        input_shape: shape of one example's input; None where examples differ.
        num_outputs: outputs of the model: classes, binary labels or values.
        num_train: examples of the training set; None before it is on disk.
        num_validation: likewise of the validation set.
        num_classes: classes that a label can take, 2 for each of several binary labels;
            None for a regression.
        vocabulary_size: words that have an id; None where inputs are not words.
        word_counts: how often the sentences to train on have each of them, by its id;
            None where no model asks for it.
        num_own: how many of the training examples, the last ones, are the set's own and
            not extra ones. None (default): all.
    """

    name: str
    input_shape: tuple[int | None, ...]
    num_outputs: int
    num_train: int | None
    num_validation: int | None
    num_classes: int | None
    vocabulary_size: int | None = None
    word_counts: tuple[int, ...] | None = None
    num_own: int | None = None


class Content(NamedTuple):
    """What the local files of a data set hold."""

    size: int
    """bytes"""
    digest: str
    """SHA-256, in hexadecimal"""


@dataclass(frozen=True)
class Splits(Generic[Data]):
    """A data set: described at once, read when its examples are first asked for.

    Attributes:
        info: sizes and shapes.
        read: () -> (what to train on, what to validate on): (x, y) each, arrays whose
            first axis is the example, which `transform` and `collate` are for; or
            Examples, or Games.
        transform: what batches of x go through on their way to the model. None:
            nothing.
        collate: how batches of examples of different sizes are padded. None: all are
            of one size.
        files: names and texts of what a run needs to be understood and is saved with
            it, such as a vocabulary.
        notes: what a user should know of the data, a line each; complete once the
            examples are read.
        content: what its local files hold; None: it is known by its name.
    """

    info: DataInfo
    read: Callable[[], tuple[Data | Arrays, Data | Arrays]]
    transform: Transform | None = None
    collate: Collate | None = None
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    notes: Sequence[str] = ()
    content: Content | None = None

    @cached_property
    def _data(self) -> tuple[Data, Data]:
        train, validation = self.read()
        return self._wrap(train), self._wrap(validation)

    def _wrap(self, data: Data | Arrays) -> Data:
        if not isinstance(data, tuple | list):
            return data
        x, y = cast(Arrays, data)
        return cast(Data, ArrayExamples(x, y, self.transform, self.collate))

    @property
    def is_read(self) -> bool:
        """Whether its examples have been asked for."""
        return "_data" in vars(self)

    @property
    def train(self) -> Data:
        return self._data[0]

    @property
    def validation(self) -> Data:
        return self._data[1]
