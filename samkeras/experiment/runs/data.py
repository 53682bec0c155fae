"""A run's data, read once for all runs whose options give the same."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from samkeras.data.examples import ArrayExamples, Examples
from samkeras.data.splits import Splits
from samkeras.experiment.options.groups import Config, LabelNoise
from samkeras.experiment.runs.recall import Recall
from samkeras.seeds import derive_seed

Memory = Recall[Splits[Any]]


def describe_data(config: Config, memory: Memory | None = None) -> Splits[Any]:
    """The data of a run, whose examples are not read yet.

    Args:
        config: the run's options.
        memory: of what is described already. None (default): of nothing.

    Raises:
        InputError: there are no such data, or they do not fit the options.
    """
    workload = config.target.load()
    memory = Recall() if memory is None else memory
    splits = memory.call(workload.load, workload.task.load, config)
    workload.task.check(config, splits)
    return splits


def read_data(config: Config, memory: Memory) -> Splits[Any]:
    """The data of a run, read.

    Args:
        config: the run's options.
        memory: of what is read already, not of what is described: a workload may look
            at an option only when it makes the examples.
    """
    workload = config.target.load()

    def read(observed: Config) -> Splits[Any]:
        splits = workload.task.load(observed)
        _ = splits.train
        return splits

    return memory.call(workload.load, read, config)


def add_noise(
    config: Config, splits: Splits[Examples]
) -> tuple[Examples, dict[str, np.ndarray], float]:
    """The training examples with the run's label noise; arrays that say which labels
    are replaced, and by what; and their share of all labels."""
    seed = derive_seed(config.seed, "label_noise")
    num_classes = splits.info.num_classes or 0  # there are some, the task has checked
    rate = LabelNoise.of(config).label_noise
    return splits.train.with_label_noise(rate, num_classes, seed)


def can_be_resident(examples: Sequence[Any], share: float) -> bool:
    """Whether a run's examples can all be on the device: arrays, of one size, that take
    no more than a share of its memory."""
    return _size(examples) <= share * _find_memory()


def _find_memory() -> int:
    from samkeras.backend import backend

    return backend.find_memory()


def _size(examples: Sequence[Any]) -> float:
    """The bytes that examples take on the device; infinite where they cannot be
    there."""
    are_able = all(isinstance(e, ArrayExamples) and e.can_be_resident for e in examples)
    if not are_able:
        return math.inf
    return sum(each.x.nbytes + each.y.nbytes for each in examples)


def find_resident(
    examples: Sequence[Any], share: float, note: Callable[[str], None]
) -> Sequence[Any]:
    """The same examples, on the device where they can be.

    Args:
        examples: of a run.
        share: of the device's memory that they may take; 0: none.
        note: told if they take more.
    """
    if can_be_resident(examples, share):
        return [dataclasses.replace(each, is_resident=True) for each in examples]
    size = _size(examples)
    if share > 0 and size < math.inf:
        memory = share * _find_memory()
        note(
            f"batches come from the host: the data take {size / 2**30:.3g} GiB, "
            f"--resident_data {share:g} of the device's memory is "
            f"{memory / 2**30:.3g} GiB"
        )
    return examples
