"""What is recorded of a run before it trains."""

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np

from samkeras.data.splits import Splits
from samkeras.data.summary import summarize
from samkeras.experiment.machine import find_versions
from samkeras.experiment.options.config import dump
from samkeras.experiment.options.session import Session
from samkeras.experiment.options.targets import Target
from samkeras.experiment.runs.build import ModelSize
from samkeras.experiment.runs.failure import date_back
from samkeras.experiment.runs.run import Run
from samkeras.experiment.tracking.record import Record, Tracker
from samkeras.files import replace_file
from samkeras.model import SAMModel


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


def describe_run(logger: Record, run: Run, session: Session, splits: Splits) -> None:
    """Records a run's options, what it is trained on and with, and where its code
    is."""
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
            "started_in": Path.cwd(),  # which relative paths are meant from
            "workload_version": run.workload.version,
            "keras_backend": keras.backend.backend(),
            "device": devices[0].split(":")[0],
            "num_devices": len(devices),
            **{f"{name}_version": text for name, text in find_versions().items()},
        }
    )
    (folder / "config.yaml").write_text(dump(config.plain_values))
    files = {**splits.files, "data.txt": summarize(splits)}
    files = {name: text for name, text in files.items() if text}
    for name, text in files.items():
        (folder / name).write_text(text)
    for name in ("config.yaml", *files, *_copy_source(config.target, folder)):
        logger.log_file(folder / name)


def describe_model(logger: Record, size: ModelSize, model: SAMModel) -> None:
    """Records a run's model."""
    sizes = {"num_params": size.num_params, "num_nonzero_params": size.num_nonzero}
    logger.log_params(sizes)
    path = logger.folder / "model_summary.txt"
    with open(path, "w") as file:
        model.summary(print_fn=lambda line: print(line, file=file))
    logger.log_file(path)


def describe_noise(logger: Record, record: dict[str, Any], share: float) -> None:
    """Records a run's label noise, as add_noise gives it."""
    path = logger.folder / "label_noise.npz"
    np.savez_compressed(path, **record)
    logger.log_file(path)
    logger.log_params({"label_noise_realized": share})


def _copy_source(target: Target, folder: Path) -> list[str]:
    """Keeps a workload of the user's own with its run, as it is now: it may lie in no
    repository. Returns the files' names in the run's folder."""
    if target.is_house:
        return []
    copies = folder / "source"
    copies.mkdir(exist_ok=True)
    files = [path for path in (target.path, target.defaults) if path.is_file()]
    for path in files:
        replace_file(copies / path.name, path.read_bytes())
    return [f"{copies.name}/{path.name}" for path in files]
