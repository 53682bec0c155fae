"""What a task is: its data, its model, its loss and what is reported of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import keras
import numpy as np

from samkeras.methods import Method

Examples = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class DataInfo:
    """What is known of a data set without reading it.

    Attributes:
        name: the data set's name.
        input_shape: shape of one example's input.
        num_outputs: outputs of the model: classes, binary labels or values.
        num_train: examples of the training set; None before it is on disk.
        num_validation: likewise of the validation set.
        num_classes: classes that a label can take, 2 for each of several binary labels;
            None for a regression.
        vocabulary_size: words that have an id; None where inputs are not words.
        word_counts: how often the sentences to train on have each of them, by its id;
            None where no model asks for it.
    """

    name: str
    input_shape: tuple[int, ...]
    num_outputs: int
    num_train: int | None
    num_validation: int | None
    num_classes: int | None
    vocabulary_size: int | None = None
    word_counts: tuple[int, ...] | None = None


class Content(NamedTuple):
    """What the local files of a data set hold."""

    size: int
    """bytes"""
    digest: str
    """SHA-256, in hexadecimal"""


@dataclass(frozen=True)
class Splits:
    """A data set: described at once, read when its examples are first asked for.

    Attributes:
        info: sizes and shapes.
        read: () -> ((x, y) to train on, (x, y) to validate on), arrays whose first axis
            is the example; or two ImageStreams, or two Games.
        transform: what batches of x go through on their way to the model, see
            samkeras.data.batches.Transform. None: nothing.
        collate: how batches of examples of different sizes are padded, see
            samkeras.data.batches.Collate. None: all are of one size.
        files: names and texts of what a run needs to be understood and is saved with
            it, such as a vocabulary.
        notes: what a user should know of the data, a line each; complete once the
            examples are read.
        content: what its local files hold; None: it is known by its name.
    """

    info: DataInfo
    read: Callable[[], tuple[Examples, Examples]]
    transform: Any = None
    collate: Any = None
    files: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    content: Content | None = None

    @cached_property
    def _examples(self) -> tuple[Examples, Examples]:
        return self.read()

    @property
    def train(self) -> Examples:
        return self._examples[0]

    @property
    def validation(self) -> Examples:
        return self._examples[1]


@dataclass(frozen=True)
class Workload:
    """A task. Its numbers live in configs/<name>.yaml.

    Attributes:
        load: config -> Splits. Cheap: the examples are read later.
        build: (config, info) -> an uncompiled SAMModel of config.width_mult.
        loss: a keras loss, or config -> one.
        metrics: keras metrics beside the loss: names, or functions that make them.
        monitor: the validation metric that is reported, as fit logs it.
        mode: whether "max" or "min" of it is best.
        score: (labels, weights, predictions) of the whole validation set, arrays whose
            first axis is the example -> names and values of what can only be measured
            on all of it. None: nothing.
        methods: methods of its own that `--method` takes, by their names: config -> a
            Method.
        version: raised by a change of what it imports, so that runs from before it are
            trained again; a change of its own module has that effect by itself.
    """

    load: Callable[[Any], Splits]
    build: Callable[[Any, DataInfo], keras.Model]
    loss: keras.losses.Loss | Callable[[Any], keras.losses.Loss]
    metrics: Sequence[str | Callable[[], keras.metrics.Metric]]
    monitor: str
    mode: Literal["max", "min"]
    score: Callable[..., dict[str, float]] | None = None
    methods: Mapping[str, Callable[[Any], Method]] = field(default_factory=dict)
    version: int = 1
