"""What is printed of runs that are not to be trained: what would run."""

import dataclasses
from collections.abc import Iterable

import keras

from samkeras.data.splits import Content
from samkeras.data.summary import summarize
from samkeras.experiment.options.config import varied_fields
from samkeras.experiment.options.values import as_text
from samkeras.experiment.runs.build import measure_size
from samkeras.experiment.runs.run import Run
from samkeras.experiment.studies.tables import label
from samkeras.workload import Splits


def print_dry_run(runs: list[Run], splits: list[Splits]) -> None:
    """Says what would run: a grid in a line a run, one run in full."""
    devices = ", ".join(keras.distribution.list_devices())
    varied = varied_fields(each.config for each in runs)
    for each, loaded in zip(runs, splits, strict=True):
        config, info = each.config, loaded.info
        size = measure_size(each, info)
        shown = f"{size.num_params:,} trainable"
        if config.is_pruned:
            shown += f", non-zero: {size.num_nonzero:,}"
        steps = "unknown until the data set is on disk"
        per_epoch = each.task.steps_per_epoch(config, loaded)
        if per_epoch is not None:
            steps = (
                f"{per_epoch:,} an epoch, {per_epoch * config.total_epochs:,} in all"
            )
        if len(runs) > 1:
            print(f"{label(each, varied)}: parameters: {shown}; steps: {steps}")
            continue
        for name, value in dataclasses.asdict(config).items():
            print(f"{name}: {as_text(value)}")
        sizes = (info.num_train, info.num_validation)
        train, validation = (f"{n:,}" if n else "unknown" for n in sizes)
        print(
            f"data: {info.name}, {train} training and {validation} validation "
            f"examples of shape {info.input_shape}, {info.num_outputs} outputs"
        )
        print(f"parameters: {shown}")
        print(f"steps: {steps}")
        print(f"devices: {devices} ({keras.backend.backend()})")
    _print_own(runs, splits, varied)
    # Of those that are read, all there are; some come up in reading.
    for note in dict.fromkeys(note for each in splits for note in each.notes):
        print(note)
    if len(runs) > 1:
        print(f"{len(runs)} runs on {devices} ({keras.backend.backend()})")


def _print_own(runs: list[Run], splits: list[Splits], varied: Iterable[str]) -> None:
    """Says what was read of a user's own data, which are on disk; of several data sets
    each with the options that it is of."""
    described: dict[int, str] = {}  # runs of the same data share an object
    own: dict[tuple[Content, str], list[Run]] = {}
    for run, each in zip(runs, splits, strict=True):
        if each.content is not None:
            if id(each) not in described:
                described[id(each)] = summarize(each, in_full=False)
            own.setdefault((each.content, described[id(each)]), []).append(run)
    for (_, text), of in own.items():
        if len(own) > 1:
            values = [run.config.result_fields for run in of]
            shared = [n for n in varied if len({each[n] for each in values}) == 1]
            print(f"{label(of[0], shared)}:")
        print(text, end="")
