"""What is printed of runs: what would run, and what came out."""

import dataclasses
import sys
from collections.abc import Iterable

import keras
from rich.console import Console
from rich.table import Table

from samkeras.experiment.options.config import result_fields, varied_fields
from samkeras.experiment.options.values import as_text
from samkeras.experiment.runs.build import measure_size
from samkeras.experiment.runs.result import Result
from samkeras.experiment.runs.run import Run
from samkeras.experiment.studies.comparison import (
    RULE_FIELDS,
    compare,
    estimate,
)
from samkeras.experiment.studies.figure import VALUES
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
    if len(runs) > 1:
        print(f"{len(runs)} runs on {devices} ({keras.backend.backend()})")


def print_table(results: list[Result]) -> None:
    """A row a run, and for runs with and without SAM the gain at each width."""
    if not results:
        return
    workload = results[0].config.target.load()
    varied = varied_fields(result.config for result in results)
    columns = ["width_mult", "parameters", "sam", "rho"]
    if any(result.config.is_pruned for result in results):
        columns.insert(2, "non-zero")
    columns += [name for name in varied if name not in columns]
    console = _console()
    table = Table(*columns, f"best {workload.monitor}", f"final {workload.monitor}")
    table.add_column("time")
    for result in results:
        values = result_fields(result.config)
        values.update(dict.fromkeys(result.config.unused, ""))
        values.update(parameters=f"{result.num_params:,}")
        values["non-zero"] = f"{result.num_nonzero:,}"
        cells = [cell(values[name]) for name in columns]
        if result.failure:
            cells += ["FAILED", "FAILED", ""]
        else:
            cells += [f"{result.best:.4f}", f"{result.final:.4f}"]
            cells.append(f"{result.seconds:.1f} s")
        table.add_row(*cells)
    console.print(table)
    comparisons = [c for c in compare(results, workload.mode) if c.gains()]
    if not comparisons:
        return
    names = [name for name in RULE_FIELDS if name == "rho" or name in varied]
    table = Table(
        *comparisons[0].fields,
        *names,
        "seeds",
        f"gain in best {workload.monitor}",
        "in final",
        title="SAM - base, improvement > 0",
    )
    for comparison in comparisons:
        rule = dict(zip(RULE_FIELDS, comparison.rule or (), strict=True))
        values = (*comparison.fields.values(), *(rule[name] for name in names))
        gains = [comparison.gains(value) for value in VALUES]
        count = str(len(gains[0]))
        table.add_row(*map(cell, values), count, *map(_with_error, gains))
    console.print(table)


def _with_error(gains: list[float]) -> str:
    found = estimate(gains)
    if found is None:
        return ""
    shown = f"{found.mean:+.4f}"
    return shown if found.error is None else f"{shown} ± {found.error:.4f}"


def _console() -> Console:
    # A table in a pipe or a log is as wide as it needs to be.
    width = None if sys.stdout.isatty() else 200
    return Console(highlight=False, width=width)


def label(run: Run, varied: Iterable[str]) -> str:
    """What sets a run apart from those from which it differs in some of the fields
    that vary; of one run, its name."""
    values, unused = result_fields(run.config), run.config.unused
    pairs = [f"{name}={cell(values[name])}" for name in varied if name not in unused]
    return " ".join(pairs) or run.name


def cell(value: object) -> str:
    """A value as tables and labels show it."""
    return "" if value is None else as_text(value)
