"""Sets of TFDS: what is known of those of images, and having them on disk."""

import contextlib
import dataclasses
import io
import logging
import os
import shutil
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from samkeras.data.splits import DataInfo
from samkeras.errors import InputError, nearest
from samkeras.quiet import silence_native_stderr

SAMPLE = "mnist_5k"
# What TFDS would say of the best-known sets, for those who have not got them yet:
# image shape, classes, training and test examples.
KNOWN = {
    "mnist": ((28, 28, 1), 10, 60_000, 10_000),
    "fashion_mnist": ((28, 28, 1), 10, 60_000, 10_000),
    "kmnist": ((28, 28, 1), 10, 60_000, 10_000),
    "cifar10": ((32, 32, 3), 10, 50_000, 10_000),
    "cifar100": ((32, 32, 3), 100, 50_000, 10_000),
    "svhn_cropped": ((32, 32, 3), 10, 73_257, 26_032),
    # With the split extra to train on.
    "svhn_cropped+extra": ((32, 32, 3), 10, 604_388, 26_032),
    "imagenet2012": ((None, None, 3), 1_000, 1_281_167, 50_000),
}
# Files that only their owners hand out, under conditions.
MANUAL_FILES = {"imagenet2012": ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")}
UNLABELLED_TEST = ("imagenet2012", "glue")
# What else --dataset takes where a workload has this sample.
OTHERS = {
    SAMPLE: "neither an .npz file nor a folder nor",
    "morphgnt": "neither a file nor a folder nor",
    "crowdflower": "neither a .csv, .tsv or .jsonl file nor a folder nor",
}


def image_info(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    num_train: int | None,
    num_validation: int | None,
) -> DataInfo:
    """Describes a set of images of one label each."""
    sizes = (num_train, num_validation)
    return DataInfo(name, input_shape, num_classes, *sizes, num_classes=num_classes)


def split_names(builder: Any) -> tuple[str, str]:
    """The splits of a TFDS set to train and to validate on."""
    names = list(builder.info.splits)
    public = [n for n in ("test", "validation") if n in names]
    if builder.name in UNLABELLED_TEST and "test" in public:
        public.remove("test")
    validation = next(iter(public), None)
    if "train" not in names or validation is None:
        raise InputError(
            f"--dataset {builder.name} needs the splits train and test or validation; "
            f"it has {', '.join(names)}"
        )
    return "train", validation


def describe_tfds(dataset: str, data_dir: str | None) -> DataInfo:
    """What is known of a TFDS set before it is read; None for an image side that is
    not the same in all images."""
    check_data_dir(data_dir)
    if dataset in KNOWN:
        own, _, extra = dataset.partition("+")
        info = image_info(dataset, *KNOWN[dataset])
        return dataclasses.replace(info, num_own=KNOWN[own][2]) if extra else info
    builder = _tfds_builder(dataset, data_dir)
    sizes = [None, None]
    if builder.is_prepared():
        splits = builder.info.splits
        sizes = [splits[name].num_examples for name in split_names(builder)]
    features = builder.info.features
    if not _has_classified_images(features):
        raise InputError(
            f"--dataset {dataset} is not an image classification set: its features are "
            f"{', '.join(features)}"
        )
    shape, num_classes = features["image"].shape, features["label"].num_classes
    return image_info(dataset, shape, num_classes, *sizes)


def _has_classified_images(features: Any) -> bool:
    """Whether there are images of bytes, each with one class."""
    if not {"image", "label"} <= set(features):
        return False
    image, label = features["image"], features["label"]
    is_image = isinstance(image.shape, tuple) and len(image.shape) == 3
    return (
        is_image
        and image.np_dtype == np.uint8
        and getattr(label, "num_classes", None) is not None
    )


def check_data_dir(data_dir: str | None) -> None:
    """Raises an InputError unless a directory that is named is there."""
    if data_dir is not None and not os.path.isdir(os.path.expanduser(data_dir)):
        raise InputError(f"--data_dir {data_dir}: there is no such directory")


def prepared_builder(dataset: str, data_dir: str | None, sample: str = SAMPLE) -> Any:
    """The TFDS builder of a set, which is downloaded if it is not there yet.

    Raises:
        InputError: it cannot be had; the message names the `sample` to take instead.
    """
    builder = _tfds_builder(dataset, data_dir, sample)
    if not builder.is_prepared():
        _check_manual_files(builder, dataset)
        _download(builder, dataset, sample)
    return builder


def _check_manual_files(builder: Any, dataset: str) -> None:
    root = _root(builder)
    folder = root / "downloads" / "manual"
    needed = MANUAL_FILES.get(builder.name, ())
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"--dataset {dataset} is not in {root}: put {' and '.join(missing)}, from "
            f"its owners, into {folder}, or take the sample: --dataset {SAMPLE}"
        )


def _root(builder: Any) -> Path:
    return Path(os.path.expanduser(builder._data_dir_root))


def _tfds_builder(dataset: str, data_dir: str | None, sample: str = SAMPLE) -> Any:
    tfds = import_tfds(sample)
    root = data_dir and os.path.expanduser(data_dir)
    builder = None
    try:
        builder = tfds.builder(dataset, data_dir=root)
        # TFDS takes Mnist for mnist, whose runs it would train again.
        reason = "" if builder.name in dataset else "another case"
    except ImportError as error:
        raise InputError(
            f"--dataset {dataset} needs the package {error.name}: "
            f"pip install {error.name}"
        ) from None
    except Exception as error:  # another kind for each part of a name
        reason = str(error)
    if reason:
        reason = _explain_name(tfds, dataset, sample) or _shorten(reason)
        raise InputError(f"--dataset {dataset}: {reason}")
    return builder


def _explain_name(tfds: ModuleType, dataset: str, sample: str) -> str | None:
    """Which part of a name, name/config:version, there is not; None: neither."""
    name, _, config = dataset.partition(":")[0].partition("/")
    names = tfds.list_builders(with_community_datasets=False)
    if name not in names:
        guess = name.lower().replace("-", "_")
        return (
            f"TFDS has no set of that name, and it is {OTHERS.get(sample, 'not')} the "
            f"sample {sample}{nearest(guess, [*names, sample])}"
        )
    configs = list(tfds.builder_cls(name).builder_configs)
    if config and config not in configs:
        return f"TFDS's {name} has no {config}{nearest(config, configs)}"
    return None


def _shorten(message: str) -> str:
    """TFDS' message without the call that it repeats, in one line."""
    return " ".join(message.rpartition('}": ')[2].split())[:200]


def import_tfds(sample: str = SAMPLE) -> ModuleType:
    """tensorflow_datasets; on the JAX backend, TensorFlow then only sees the CPU."""
    try:
        with silence_native_stderr():
            import keras
            import tensorflow as tf
            import tensorflow_datasets as tfds

            if keras.backend.backend() != "tensorflow":
                # TensorFlow only reads files here; it would take all GPU memory.
                tf.config.set_visible_devices([], "GPU")
    except ImportError as error:
        raise InputError(
            "data sets of TFDS are read with tensorflow and tensorflow-datasets "
            f"(pip install -r requirements.txt), or take the sample: "
            f"--dataset {sample}. Received: no module {error.name}"
        ) from None
    # Of their warnings, only errors concern a user, and those are raised.
    for name in ("absl", "tensorflow", "urllib3", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    return tfds


def _download(builder: Any, dataset: str, sample: str) -> None:
    """Downloads and prepares a set, or leaves nothing behind and says why not."""
    from tensorflow_datasets.core.download import downloader

    root = _root(builder)
    existed = {path for path in (root, *root.glob("*")) if path.exists()}
    # TFDS tries ten times over minutes; a machine without a network answers at once.
    downloader.MAX_RETRIES = 1
    try:
        # The progress bars that a terminal gets say all that is printed here.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            builder.download_and_prepare()
    except Exception as error:
        _remove_leftovers(root, existed)
        reason = " ".join(str(error).split())[:120]
        work = "prepared" if builder.name in MANUAL_FILES else "downloaded"
        raise InputError(
            f"--dataset {dataset} is not in {root} and cannot be {work}; without "
            f"a network, take the sample: --dataset {sample} ({reason})"
        ) from None


def _remove_leftovers(root: Path, existed: set[Path]) -> None:
    """Removes what a failed download made: new folders, and its unfinished files."""
    for path in root.glob("*"):
        if path not in existed:
            shutil.rmtree(path, ignore_errors=True)
    for path in root.glob("downloads/**/*.tmp.*"):
        shutil.rmtree(path, ignore_errors=True)
    if root not in existed:
        shutil.rmtree(root, ignore_errors=True)
