"""A run's training, recorded."""

import contextlib
import dataclasses
import io
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from samkeras.data.splits import DataInfo, Splits
from samkeras.errors import InputError
from samkeras.experiment.machine import find_versions
from samkeras.experiment.options.config import (
    list_changes,
    to_yaml,
)
from samkeras.experiment.options.groups import LabelNoise
from samkeras.experiment.options.session import Session
from samkeras.experiment.runs import data
from samkeras.experiment.runs.build import (
    ModelSize,
    build_model,
    compile_model,
    measure_size,
    prune_model,
)
from samkeras.experiment.runs.checkpoint import Checkpoints, has_checkpoint
from samkeras.experiment.runs.failure import (
    Failure,
    date_back,
    explain,
    record_failure,
)
from samkeras.experiment.runs.interrupt import StopRequest
from samkeras.experiment.runs.loop import Loop
from samkeras.experiment.runs.member import Member
from samkeras.experiment.runs.progress import RunProgress
from samkeras.experiment.runs.result import Result
from samkeras.experiment.runs.run import Run
from samkeras.experiment.tracking.record import Record, Tracker
from samkeras.files import replace_file
from samkeras.model import SAMModel
from samkeras.task import Validation


def train(
    run: Run,
    session: Session,
    splits: Splits,
    tracker: Tracker,
    parent: str | None,
    progress: RunProgress,
) -> Result:
    """Trains one run and records it, in the scope of its devices. A failure is recorded
    and returned.

    Args:
        parent: id of the record of the run that this one is nested in, if it is.
    """
    started, config = time.monotonic(), run.config
    try:
        logger, mark = start_record(run, session, splits, tracker, parent)
    except (InputError, OSError) as error:
        return without_metrics(run, splits.info, Failure(str(error)))
    folder = logger.folder
    checkpoints = Checkpoints(folder, mark, progress.say)
    try:
        if session.rerun:
            checkpoints.clear()
        if parent is None:
            _mention_other_config(run, folder, progress)
        _record_options(logger, run, session, splits)
        size = measure_size(run, splits.info)
        model = build_model(run, splits.info)
        _record_model(logger, size, model)
        _train(run, model, size, splits, logger, checkpoints, progress)
        logger.end("FINISHED")
    except KeyboardInterrupt:
        try:
            checkpoints.wait()
        finally:  # interrupted once more
            with contextlib.suppress(OSError):  # such as a full disk
                logger.end("KILLED", "interrupted")
        raise
    except Exception as error:
        checkpoints.wait()
        failure = explain(error, config)
        record_failure(logger, failure)
        return without_metrics(run, splits.info, failure)
    with contextlib.suppress(OSError):  # they are of no use any more
        checkpoints.clear()
    return Result(
        config,
        size.num_params,
        size.num_nonzero,
        numbers={**logger.metrics, "seconds": time.monotonic() - started},
    )


def _train(
    run: Run,
    model: SAMModel,
    size: ModelSize,
    splits: Splits,
    logger: Record,
    checkpoints: Checkpoints,
    progress: RunProgress,
) -> None:
    """Trains a run's new model to the end, and records what comes out."""
    config, task = run.config, run.task
    examples = splits.train
    if LabelNoise.of(config).label_noise:
        examples, record, share = data.add_noise(config, splits)
        _record_noise(logger, record, share)
    batches = task.batches(config, examples, "order", model)
    validation = task.validation(config, splits.validation, model)
    compile_model(run, model, batches.total)
    if config.is_pruned:
        prune_model(run, model, size.sparsity, examples)
    member = Member(run, logger, checkpoints, progress)
    with StopRequest() as stop:
        loop = Loop(model, batches, validation, member, config.total_epochs, stop)
        loop.train()
    _record_end(logger, model, member, validation)


def start_record(
    run: Run,
    session: Session,
    splits: Splits,
    tracker: Tracker,
    parent: str | None,
) -> tuple[Record, str]:
    """Starts a run's record, or goes on with it; and the fingerprint that it is of.

    Raises:
        InputError: another command is at this run.
    """
    folder, mark = run.find_folder(session.run_dir, run.find_marks(splits))
    tags = {"workload": run.config.workload, "fingerprint": mark, **run.source}
    logger = tracker.start(run.title, tags, parent, folder, fresh=session.rerun)
    date_back(logger, is_new=session.rerun)
    return logger, mark


def without_metrics(run: Run, info: DataInfo, failure: Failure) -> Result:
    """The result of a run that failed, or is missing; of no size if none can be
    built."""
    try:
        size = measure_size(run, info)
    except Exception:
        size = ModelSize(0, 0, 0.0)
    return Result(run.config, size.num_params, size.num_nonzero, {}, *failure)


def _mention_other_config(run: Run, folder: Path, progress: RunProgress) -> None:
    """Says so where an unfinished run differs from a new one in its config alone."""
    if has_checkpoint(folder):
        return
    for other in sorted(folder.parent.glob(f"{run.name}_????????")):
        if other == folder or not has_checkpoint(other):
            continue
        try:
            changes = list_changes(other / "config.yaml", run.config.plain_values)
        except InputError:
            continue  # It says nothing of this run.
        progress.say(
            f"the unfinished run {other} stays as it is: this one is another "
            f"({', '.join(changes) or 'backend, data or version'}) and starts anew"
        )


def _record_options(logger: Record, run: Run, session: Session, splits: Splits) -> None:
    config, folder = run.config, logger.folder
    devices = run.task.devices()
    content = splits.content._asdict() if splits.content else {}
    logger.set_tag("target", config.target.address)  # for load_run
    logger.log_params(
        {
            **dataclasses.asdict(session),
            **dataclasses.asdict(config),
            **config.result_fields,
            **{f"data_{name}": value for name, value in content.items()},
            "workload_version": run.workload.version,
            "keras_backend": keras.backend.backend(),
            "device": devices[0].split(":")[0],
            "num_devices": len(devices),
            **{f"{name}_version": text for name, text in find_versions().items()},
        }
    )
    (folder / "config.yaml").write_text(to_yaml(config))
    for name, text in splits.files.items():
        (folder / name).write_text(text)
    for name in ("config.yaml", *splits.files, *_copy_source(run, folder)):
        logger.log_file(folder / name)


def _copy_source(run: Run, folder: Path) -> list[str]:
    """Keeps a workload of the user's own with its run, as it is now: it may lie in no
    repository. Returns the files' names in the run's folder."""
    target = run.config.target
    if target.is_house:
        return []
    copies = folder / "source"
    copies.mkdir(exist_ok=True)
    files = [path for path in (target.path, target.defaults) if path.is_file()]
    for path in files:
        replace_file(copies / path.name, path.read_bytes())
    return [f"{copies.name}/{path.name}" for path in files]


def _record_model(logger: Record, size: ModelSize, model: SAMModel) -> None:
    sizes = {"num_params": size.num_params, "num_nonzero_params": size.num_nonzero}
    logger.log_params(sizes)
    path = logger.folder / "model_summary.txt"
    with open(path, "w") as file:
        model.summary(print_fn=lambda line: print(line, file=file))
    logger.log_file(path)


def _record_noise(logger: Record, record: dict[str, Any], share: float) -> None:
    path = logger.folder / "label_noise.npz"
    np.savez_compressed(path, **record)
    logger.log_file(path)
    logger.log_params({"label_noise_realized": share})


def _record_end(
    logger: Record, model: SAMModel, member: Member, validation: Validation
) -> None:
    """Records what came out, and the last and best weights, which the model has
    then."""
    folder = logger.folder
    best_epoch = member.best_epoch
    metrics = {
        f"best_{member.monitor}": member.best,
        # As the progress counts epochs.
        "best_epoch": None if best_epoch is None else best_epoch + 1,
        f"final_{member.monitor}": member.final,
        "compiled_programs": model.count_programs(),
    }
    logger.log_metrics(metrics, step=0)  # one value each, which MLflow draws as bars
    last = _save_weights(model, folder / "last.weights.h5")
    model.set_weights(member.best_weights)
    best = _save_weights(model, folder / "best.weights.h5")
    for path in (last, best, *validation.illustrate(folder)):
        logger.log_file(path)


def _save_weights(model: SAMModel, path: Path) -> Path:
    weights = _WeightsFile()
    model.save_weights(weights)
    replace_file(path, weights.getbuffer())
    return path


class _WeightsFile(io.BytesIO):
    """A file in memory for keras' weights. HDF5 leaves a file that it could not write,
    as on a full disk, open, and crashes at the process' end."""

    def __str__(self):
        return "a.weights.h5"  # keras looks at the ending of its name
