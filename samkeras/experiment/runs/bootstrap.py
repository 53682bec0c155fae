"""Labels that a run has from a first one: its own predictions (Foret et al. 2021, in
their experiments on label noise)."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import keras
import numpy as np

from samkeras.data.examples import ArrayExamples
from samkeras.data.splits import Splits
from samkeras.errors import InputError
from samkeras.experiment.options.groups import find_first
from samkeras.experiment.runs.build import build_model, undone
from samkeras.experiment.runs.checkpoint import has_checkpoint
from samkeras.experiment.runs.run import Run
from samkeras.files import replace_file

FILE = "bootstrap_labels.npy"


def relabel(
    run: Run, splits: Splits[Any], examples: Any, run_dir: str, folder: Path
) -> tuple[ArrayExamples, float]:
    """Labels the examples to train on by the last weights of the run's first one. The
    labels are kept in the run's folder, so that it goes on from a checkpoint with the
    same ones.

    Args:
        run: the second run.
        splits: its data.
        examples: those to train on, whose images the first run sees as they are.
        run_dir: of the runs' folders.
        folder: the run's.

    Returns:
        The examples, and the share of them whose label is another now.

    Raises:
        InputError: the first one's weights are not here, or the images are not in
            memory.
    """
    check_examples(examples)
    path = folder / FILE
    # Without a checkpoint they may be of a first run that was trained again since.
    if not path.is_file() or not has_checkpoint(folder):
        file = io.BytesIO()
        np.save(file, _predict(run, splits, examples, run_dir))
        replace_file(path, file.getbuffer())
    labelled = with_labels(examples, folder)
    return labelled, float(np.mean(labelled.y != examples.y))


def check_examples(examples: Any) -> None:
    """Checks that examples can have labels that are predicted.

    Raises:
        InputError: they are not in memory.
    """
    if not isinstance(examples, ArrayExamples):
        raise InputError("--bootstrap needs images in memory, and these are on disk")


def with_labels(examples: ArrayExamples, folder: Path) -> ArrayExamples:
    """The examples with the labels that a run's folder has.

    Raises:
        InputError: it has none any more, or they are damaged.
    """
    path = folder / FILE
    try:
        labels = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        what = "is not there" if isinstance(error, FileNotFoundError) else "is damaged"
        raise InputError(
            f"{path}, with the labels that the run learned, {what}: the run's command "
            "with --rerun predicts them anew"
        ) from None
    return dataclasses.replace(examples, y=labels)


def _predict(
    run: Run, splits: Splits[Any], examples: ArrayExamples, run_dir: str
) -> np.ndarray:
    """The classes that the run's first one predicts, of the labels' type."""
    first = Run(find_first(run.config))
    folder, _ = first.find_folder(run_dir, first.find_marks(splits))
    path = folder / "last.weights.h5"
    if not path.is_file():
        raise InputError(
            f"--bootstrap needs the run without it, and {path} is missing: --rerun "
            "trains both"
        )
    with undone():
        model = build_model(first, splits.info)
        model.load_weights(path)
        predict = model.make_call_function()
    batches = examples.batches(run.config.batch_size)
    logits = [
        keras.ops.convert_to_numpy(predict(batches[i][0])) for i in range(batches.left)
    ]
    classes = np.concatenate(logits).argmax(axis=-1)
    return classes.astype(examples.y.dtype).reshape(examples.y.shape)
