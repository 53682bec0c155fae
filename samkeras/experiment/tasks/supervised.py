"""Learning from examples."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from samkeras.data.augmentation import CropFlip
from samkeras.data.content import describe_content
from samkeras.data.examples import ArrayExamples, Examples
from samkeras.data.mixup import Mixup
from samkeras.data.order import count_places
from samkeras.data.recipes import build_recipe
from samkeras.data.sources import check_precision
from samkeras.data.splits import DataInfo, Splits
from samkeras.errors import InputError
from samkeras.experiment.machine import name_backend
from samkeras.experiment.options.groups import (
    Amounts,
    Augmentation,
    Dataset,
    Epochs,
    LabelNoise,
    Linearized,
    MaxLength,
    Options,
    Recipe,
    Remainder,
    Treebank,
)
from samkeras.seeds import derive_seed

if TYPE_CHECKING:
    from samkeras.data.batches import Batches
    from samkeras.experiment.tasks.validation import ExampleValidation
    from samkeras.model import SAMModel

# keras and what imports it is imported where a run trains: to look up finished runs
# takes none of the seconds that it takes.


class Supervised:
    """The task of most workloads: epochs over examples with labels, each of which ends
    with a validation on others. See samkeras.task.Task."""

    options: ClassVar[tuple[type[Options], ...]] = (Amounts, Epochs)
    is_shared = True

    def devices(self) -> list[str]:
        import keras

        return keras.distribution.list_devices()

    def load(self, config: Any) -> Splits[Examples]:
        """The first examples that a run asks for, a part of those to train on held out
        where it asks for that."""
        splits = config.target.load().load(config)
        info = splits.info
        limits = (config.train_examples, config.validation_examples)
        sizes = (info.num_train, info.num_validation)
        for limit, size, name in zip(
            limits, sizes, ("train", "validation"), strict=True
        ):
            if limit and size and limit > size:
                raise InputError(
                    f"--{name}_examples must be at most {size}, the examples of "
                    f"{info.name}. Received: {limit}"
                )
        num_train, num_validation = (
            limit or size for limit, size in zip(limits, sizes, strict=True)
        )
        # The last examples are of the set's own, of which they are a part.
        own = info.num_own if config.holdout_last and not limits[0] else None
        if config.holdout and num_train:
            num_held_out = round(config.holdout * (own or num_train))
            if not 0 < num_held_out < num_train:
                raise InputError(
                    f"--holdout must leave examples to train and to validate on. "
                    f"Received: {config.holdout:g} of {num_train} examples"
                )
            num_train -= num_held_out
            num_validation = min(limits[1] or num_held_out, num_held_out)

        notes = [*splits.notes]

        def read() -> tuple[Examples, Examples]:
            train, validation = splits.train.first(limits[0]), splits.validation
            # What has come up in reading is among them.
            notes[:] = [*splits.notes, *_describe_lost(splits.train, train, info)]
            if config.holdout:
                count = round(config.holdout * (own or len(train)))
                # Examples of one's own may know of none but random ones.
                which = {"last": True} if config.holdout_last else {}
                validation, train = train.hold_out(count, **which)
            validation = validation.first(limits[1])
            check_precision(validation, info, Dataset.of(config).dataset)
            return train, validation

        return dataclasses.replace(
            splits,
            info=dataclasses.replace(
                info, num_train=num_train, num_validation=num_validation
            ),
            read=read,
            notes=notes,
            content=splits.content or describe_content(Dataset.of(config).dataset),
        )

    def check(self, config: Any, splits: Splits[Examples]) -> None:
        info = splits.info
        is_regression = info.num_classes is None
        recipe = Recipe.of(config)
        if recipe.is_augmented and len(info.input_shape) == 3:
            *sides, _ = info.input_shape
            if min(side or 2**31 for side in sides) <= CropFlip.padding:
                raise InputError(
                    f"--augment {recipe.augment} reflects {CropFlip.padding} pixels "
                    "beyond each edge of an image, which must have more of them. "
                    f"Received: {' x '.join(map(str, sides))}"
                )
        if recipe.cuts_out and len(info.input_shape) == 3:
            *sides, channels = info.input_shape
            if recipe.augment == "autoaugment" and channels != 3:
                raise InputError(
                    "--augment autoaugment needs images of 3 channels, and "
                    f"{info.name} has {channels}"
                )
            if recipe.cutout_size > min(side or 2**31 for side in sides):
                raise InputError(
                    f"--cutout_size must be at most the images' "
                    f"{' x '.join(map(str, sides))} pixels. Received: "
                    f"{recipe.cutout_size}"
                )
        is_without_images = len(info.input_shape) != 3
        if recipe.is_augmented and is_without_images:
            raise InputError(f"--augment needs images, and {info.name} has none")
        needs = (
            ("label_noise", LabelNoise, is_regression, "classes", "is a regression"),
            ("alpha", Linearized, is_regression, "classes", "is a regression"),
            ("augment", Augmentation, is_without_images, "images", "has none"),
            (
                "max_length",
                MaxLength,
                info.vocabulary_size is None,
                "words",
                "has none",
            ),
            (
                "word_dropout",
                Treebank,
                info.word_counts is None,
                "a treebank",
                "is none",
            ),
        )
        for name, group, is_lacking, what, why in needs:
            if getattr(group.of(config), name) and is_lacking:
                raise InputError(f"--{name} needs {what}, and {info.name} {why}")

    def check_devices(self, config: Any) -> None:
        self._multiple(config.batch_size, config.m_sharpness)

    def list_scores(self, workload: Any) -> list[str] | None:
        if workload.score is not None:
            return None
        return [f"val_{name}" for name in ("loss", *workload.metric_names)]

    def batches(
        self,
        config: Any,
        data: Examples,
        stream: str,
        model: "SAMModel",
        process: tuple[int, int] | None = None,
    ) -> "Batches":
        from samkeras.backend import backend

        is_training = stream == "order"
        groups = (Augmentation, Recipe)
        is_augmented = any(group.of(config).is_augmented for group in groups)
        if is_training and isinstance(config, Recipe):
            data = _follow(config, data, model)
        return data.batches(
            config.batch_size,
            derive_seed(config.seed, stream),
            augment=is_augmented and is_training,
            steps=config.steps_a_round,
            multiple_of=self._training_multiple(config),
            process=process or backend.find_process(),
        )

    def validation(
        self, config: Any, data: Examples, model: "SAMModel"
    ) -> "ExampleValidation":
        from samkeras.backend import backend
        from samkeras.experiment.tasks.validation import ExampleValidation

        batches = data.batches(
            config.batch_size,
            multiple_of=self._multiple(config.batch_size, config.m_sharpness),
            process=backend.find_process(),
        )
        return ExampleValidation(model, batches, config.target.load().score)

    def pruning_batch(self, config: Any, data: Examples, model: "SAMModel") -> Any:
        return self.batches(config, data, "pruning", model, process=(0, 1))[0]

    def steps_per_epoch(self, config: Any, splits: Splits[Examples]) -> int | None:
        if config.steps:
            return config.steps_a_round
        num_train = len(splits.train) if splits.is_read else splits.info.num_train
        if num_train is None:
            return None
        fill_to = config.batch_size if splits.collate else None
        count = count_places(num_train, True, self._training_multiple(config), fill_to)
        if not count:
            raise InputError(
                f"--batch_size must be at most the {num_train} examples to train on. "
                f"Received: {config.batch_size}"
            )
        return math.ceil(count / config.batch_size)

    def _training_multiple(self, config: Any) -> int:
        """What the size of every batch to train on is a multiple of."""
        multiple = self._multiple(config.batch_size, config.m_sharpness)
        return config.batch_size if Remainder.of(config).drop_remainder else multiple

    def _multiple(self, batch_size: int, m: int | None) -> int:
        """What the size of every batch of a run is a multiple of on this machine.

        Raises:
            InputError: the batches that are asked for are not.
        """
        num_devices = len(self.devices())
        if num_devices == 1:
            return 1
        multiple, reason = num_devices, f"the {num_devices} devices"
        if m and name_backend() == "tensorflow":
            # There a group of examples is on one device.
            multiple = num_devices * m
            reason += f" times --m_sharpness {m}"
        if batch_size % multiple:
            raise InputError(
                f"--batch_size must be a multiple of {multiple}, {reason}. "
                f"Received: {batch_size}"
            )
        return multiple


def _describe_lost(every: Examples, train: Examples, info: DataInfo) -> list[str]:
    """What to say of classes that the first examples of a set are not of."""
    if not isinstance(every, ArrayExamples) or not isinstance(train, ArrayExamples):
        return []
    if info.num_classes is None or every.y.ndim != 1 or len(train) == len(every):
        return []
    known, there = (len(np.unique(each.y)) for each in (train, every))
    if known == there:
        return []
    return [
        f"{info.name}: the first {len(train)} training examples (--train_examples) are "
        f"of {known} of the {there} classes"
    ]


def _follow(config: Any, data: Examples, model: "SAMModel") -> Examples:
    """Examples to train on, changed as a run's recipe has it.

    Raises:
        InputError: they are on disk, where they have crops of their own.
    """
    recipe = Recipe.of(config)
    if not isinstance(data, ArrayExamples):
        if recipe.cuts_out or recipe.mixup:
            name = "--mixup" if recipe.mixup else f"--augment {recipe.augment}"
            raise InputError(
                f"{name} needs images in memory, and those of "
                f"{Dataset.of(config).dataset} are read from disk"
            )
        return data
    per_place = config.batch_size if recipe.cutout_per == "batch" else 1
    dataset, channels = Dataset.of(config).dataset, data.x.shape[-1]
    transform = build_recipe(
        recipe.augment, dataset, channels, recipe.cutout_size, per_place
    )
    mixup = None
    if recipe.mixup:
        mixup = Mixup(recipe.mixup, int(model.output_shape[-1] or 0))
    return dataclasses.replace(data, transform=transform, mixup=mixup)
