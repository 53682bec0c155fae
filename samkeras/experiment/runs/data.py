"""A run's data: what it reads of a data set, with which labels and in which batches."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np

from samkeras.backend import backend
from samkeras.data.atari import Game
from samkeras.data.batches import Batches
from samkeras.data.content import describe_content
from samkeras.data.examples import Examples
from samkeras.data.order import count_places
from samkeras.data.splits import Splits
from samkeras.errors import InputError
from samkeras.experiment.options.groups import (
    PPO,
    Augmentation,
    Config,
    Dataset,
    LabelNoise,
    Linearized,
    MaxLength,
    Treebank,
)
from samkeras.experiment.runs.rollouts import Rollouts
from samkeras.seeds import derive_seed


def load_data(config: Config) -> Splits:
    """The data of a run: the first examples that it asks for, a part of those to train
    on held out where it asks for that."""
    splits = config.target.load().load(config)
    if isinstance(config, PPO):
        return splits
    limits = (config.train_examples, config.validation_examples)
    sizes = (splits.info.num_train, splits.info.num_validation)
    for limit, size, name in zip(limits, sizes, ("train", "validation"), strict=True):
        if limit and size and limit > size:
            raise InputError(
                f"--{name}_examples must be at most {size}, the examples of "
                f"{splits.info.name}. Received: {limit}"
            )
    needs_classes = {
        "label_noise": LabelNoise.of(config).label_noise,
        "alpha": Linearized.of(config).alpha,
    }
    for name, value in needs_classes.items():
        if value and splits.info.num_classes is None:
            raise InputError(
                f"--{name} needs classes, and {splits.info.name} is a regression"
            )
    if Augmentation.of(config).augment and len(splits.info.input_shape) != 3:
        raise InputError(f"--augment needs images, and {splits.info.name} has none")
    if (
        MaxLength.of(config).max_length is not None
        and splits.info.vocabulary_size is None
    ):
        raise InputError(f"--max_length needs words, and {splits.info.name} has none")
    if Treebank.of(config).word_dropout and splits.info.word_counts is None:
        raise InputError(
            f"--word_dropout needs a treebank, and {splits.info.name} is none"
        )
    num_train, num_validation = (
        limit or size for limit, size in zip(limits, sizes, strict=True)
    )
    if config.holdout and num_train:
        num_held_out = round(config.holdout * num_train)
        if not 0 < num_held_out < num_train:
            raise InputError(
                f"--holdout must leave examples to train and to validate on. "
                f"Received: {config.holdout:g} of {num_train} examples"
            )
        num_train -= num_held_out
        num_validation = min(limits[1] or num_held_out, num_held_out)
    info = dataclasses.replace(
        splits.info, num_train=num_train, num_validation=num_validation
    )

    def read() -> tuple[Examples, Examples]:
        train, validation = splits.train.first(limits[0]), splits.validation
        if config.holdout:
            validation, train = train.hold_out(round(config.holdout * len(train)))
        return train, validation.first(limits[1])

    content = describe_content(Dataset.of(config).dataset)
    return dataclasses.replace(splits, info=info, read=read, content=content)


def load_shared(config: Config, shared: dict[Any, Splits]) -> Splits:
    """The data of a run, read once for all runs whose options give the same; `shared`
    holds what is read already."""
    key = config
    if not isinstance(config, PPO):
        fields = (
            "workload",
            "dataset",
            "data_dir",
            "train_examples",
            "validation_examples",
            "max_length",
            "tags",
            "holdout",
            "image_size",
        )
        key = tuple(getattr(config, name, None) for name in fields)
    if key not in shared:
        splits = load_data(config)
        _ = splits.train
        shared[key] = splits
    return shared[key]


def add_noise(
    config: Config, splits: Splits[Examples]
) -> tuple[Examples, dict[str, np.ndarray], float]:
    """The training examples with the run's label noise; arrays that say which labels
    are replaced, and by what; and their share of all labels."""
    seed = derive_seed(config.seed, "label_noise")
    rate = LabelNoise.of(config).label_noise
    return splits.train.with_label_noise(rate, splits.info.num_classes, seed)


def make_batches(
    config: Config,
    examples: Examples | Game,
    stream: str | None = None,
    process: tuple[int, int] | None = None,
) -> Batches | Game:
    """Batches of examples of a run: to train on, in the order of one of the run's
    random streams, or to validate on. A process, (its number, of how many), gets its
    part of them; None: this one. Of a game, rollouts to train on; it is validated on
    itself."""
    seed = None if stream is None else derive_seed(config.seed, stream)
    if isinstance(examples, Game):
        return examples if seed is None else Rollouts(examples, config, seed)
    return examples.batches(
        config.batch_size,
        seed,
        augment=Augmentation.of(config).augment and stream == "order",
        steps=None if seed is None else config.steps_a_round,
        multiple_of=batch_multiple(config),
        process=process or backend.find_process(),
    )


def run_devices(config: Config) -> list[str]:
    """The devices that a run uses: all, or the first for the small steps of a game."""
    devices = keras.distribution.list_devices()
    return devices[:1] if isinstance(config, PPO) else devices


def batch_multiple(config: Config) -> int:
    """What the size of every batch of a run is a multiple of on this machine.

    Raises:
        InputError: the batches that are asked for are not.
    """
    num_devices = len(run_devices(config))
    if num_devices == 1:
        return 1
    multiple, reason = num_devices, f"the {num_devices} devices"
    if config.m_sharpness and keras.backend.backend() == "tensorflow":
        # There a group of examples is on one device.
        multiple = num_devices * config.m_sharpness
        reason += f" times --m_sharpness {config.m_sharpness}"
    if config.batch_size % multiple:
        raise InputError(
            f"--batch_size must be a multiple of {multiple}, {reason}. "
            f"Received: {config.batch_size}"
        )
    return multiple


def steps_per_epoch(config: Config, splits: Splits, num_train: int) -> int:
    """Steps from one validation to the next, with `num_train` examples to train on."""
    if isinstance(config, PPO):
        return config.rollouts_per_epoch * config.batches_per_rollout
    if config.steps:
        return config.steps_a_round
    fill_to = config.batch_size if splits.collate else None
    count = count_places(num_train, True, batch_multiple(config), fill_to)
    return math.ceil(count / config.batch_size)
