"""Many runs: one after the other, those already finished skipped, and their table."""

import contextlib
import dataclasses
import hashlib
import io
import signal
import statistics
import sys
import tempfile
from pathlib import Path

import keras
from rich.console import Console
from rich.table import Table

from samkeras.backend import broadcast, find_process
from samkeras.errors import InputError
from samkeras.experiment import data, run
from samkeras.experiment.config import (
    Config,
    PPOConfig,
    SupervisedConfig,
    count_work,
    fingerprint,
    result_fields,
)
from samkeras.experiment.progress import ProgressDisplay
from samkeras.experiment.run import Result
from samkeras.experiment.targets import find_workload
from samkeras.experiment.tracking import DEFAULT_URI, Tracker
from samkeras.workload import Splits


def run_grid(configs: list[Config]) -> int:
    """Trains the runs, prints their table and returns the exit code.

    Raises:
        InputError: something is wrong that can be known before training.
    """
    if find_process()[0] > 0:
        return _follow(configs)
    return _run_grid(configs)


def _follow(configs: list[Config]) -> int:
    """Does a further process's part of the runs, of which the first one tells and
    records: what this one records is thrown away."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        uri = f"sqlite:///{folder}/mlflow.db"
        return _run_grid(
            [
                dataclasses.replace(
                    config, tracking_uri=uri, run_dir=f"{folder}/runs", verbose=0
                )
                for config in configs
            ]
        )


def _run_grid(configs: list[Config]) -> int:
    session = configs[0]
    splits = [data.load_data(config) for config in configs]
    if session.dry_run:
        print_dry_run(configs, splits)
        return 0
    for config, loaded in zip(configs, splits, strict=True):
        if config.match_width is not None or config.alpha is not None:
            run.measure_size(config, loaded.info)  # which says what cannot be built
        data.batch_multiple(config)
    workload = find_workload(session.workload)
    is_whole = workload.score is not None or isinstance(session, PPOConfig)
    if is_whole and find_process()[1] > 1:
        raise InputError(
            f"workloads/{session.workload} trains in one process: its "
            f"{workload.monitor} is of all predictions or games together. "
            f"Received: {find_process()[1]} processes"
        )
    _check_writable(Path(session.run_dir))
    # A data set that cannot be had is bad input, and known before anything is logged.
    splits = _read_once(configs, splits)
    tracker = Tracker(session.tracking_uri, session.experiment or session.workload)
    tracker.deliver_pending(Path(session.run_dir))
    tracker.save_view(session.workload, workload.monitor, workload.mode)
    finished = {} if session.rerun else _find_finished(tracker, configs)
    finished = broadcast(finished)
    remaining = [i for i in range(len(configs)) if i not in finished]
    results = dict(finished)
    work = {i: _count_work(configs[i], splits[i]) for i in remaining}
    signal.signal(signal.SIGTERM, _interrupt)
    interrupted = False
    total = sum(work.values())
    with ProgressDisplay(len(remaining), total, session.verbose) as progress:
        for note in dict.fromkeys(note for loaded in splits for note in loaded.notes):
            progress.say(note)
        if finished:
            progress.say(f"{len(finished)} of {len(configs)} runs already finished")
        # A grid that was killed in its last run is ended too.
        is_grid = len(remaining) > 1 or (remaining and _grid_folder(configs).exists())
        parent = _start_parent(tracker, configs) if is_grid else None
        try:
            for number, i in enumerate(remaining, 1):
                progress.start_run(_label(configs[i], configs), number, work[i])
                with run.choose_devices(configs[i]):
                    results[i] = run.train(
                        configs[i], splits[i], tracker, parent, progress
                    )
                if results[i].failure:
                    progress.say(f"FAILED {results[i].failure}")
                    if find_process()[1] > 1:
                        break  # The other processes may still be in this run.
        except KeyboardInterrupt:
            interrupted = True
        failed = any(result.failure for result in results.values())
        if parent is not None:
            parent.end("KILLED" if interrupted else "FAILED" if failed else "FINISHED")
    print_table([results[i] for i in sorted(results)])
    tracker.close()
    print_address(tracker)
    if interrupted:
        print("run.py: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 1 if failed else 0


def print_dry_run(configs: list[Config], splits: list[Splits]) -> None:
    """Says what would run: a grid in a line a run, one run in full."""
    devices = ", ".join(keras.distribution.list_devices())
    for config, loaded in zip(configs, splits, strict=True):
        info = loaded.info
        size = run.measure_size(config, info)
        shown = f"{size.num_params:,} trainable"
        if config.is_pruned:
            shown += f", non-zero: {size.num_nonzero:,}"
        steps = "unknown until the data set is on disk"
        if info.num_train is not None:
            per_epoch = data.steps_per_epoch(config, loaded, info.num_train)
            steps = (
                f"{per_epoch:,} an epoch, {per_epoch * config.total_epochs:,} in all"
            )
        if len(configs) > 1:
            label = _label(config, configs)
            print(f"{label}: parameters: {shown}; steps: {steps}")
            continue
        for name, value in dataclasses.asdict(config).items():
            print(f"{name}: {value}")
        sizes = (info.num_train, info.num_validation)
        train, validation = (f"{n:,}" if n else "unknown" for n in sizes)
        print(
            f"data: {info.name}, {train} training and {validation} validation "
            f"examples of shape {info.input_shape}, {info.num_outputs} outputs"
        )
        print(f"parameters: {shown}")
        print(f"steps: {steps}")
        print(f"devices: {devices} ({keras.backend.backend()})")
    if len(configs) > 1:
        print(f"{len(configs)} runs on {devices} ({keras.backend.backend()})")


def print_table(results: list[Result]) -> None:
    """A row a run, and for runs with and without SAM the gain at each width."""
    if not results:
        return
    workload = find_workload(results[0].config.workload)
    varied = _varied([result.config for result in results])
    columns = ["width_mult", "parameters", "sam", "rho"]
    if any(result.config.is_pruned for result in results):
        columns.insert(2, "non-zero")
    columns += [name for name in varied if name not in columns]
    console = _console()
    table = Table(*columns, f"best {workload.monitor}", f"final {workload.monitor}")
    table.add_column("time")
    for result in results:
        values = result_fields(result.config)
        values.update(parameters=f"{result.num_params:,}")
        values["non-zero"] = f"{result.num_nonzero:,}"
        if not result.config.sam:
            values.update(rho="", perturbation="")
        cells = [_cell(values[name]) for name in columns]
        if result.failure:
            cells += ["FAILED", "FAILED", ""]
        else:
            cells += [f"{result.best:.4f}", f"{result.final:.4f}"]
            cells.append(f"{result.seconds:.1f} s")
        table.add_row(*cells)
    console.print(table)
    gains = compute_gains(results, workload.mode)
    if gains:
        table = Table(
            *[name for name in gains[0] if name not in ("gain", "final_gain")],
            f"gain in best {workload.monitor}",
            "in final",
            title="SAM - base, improvement > 0",
        )
        for row in gains:
            shown = [_with_error(*row.pop(name)) for name in ("gain", "final_gain")]
            table.add_row(*[_cell(value) for value in row.values()], *shown)
        console.print(table)


def compute_gains(results: list[Result], mode: str) -> list[dict]:
    """SAM's metric minus the base optimizer's at each width (paper, section 4.1).

    Runs are paired by seed and SAM is taken at the rho of the best mean, as the paper
    does. The sign is such that an improvement is positive.

    Returns:
        A row for each width that has both: width_mult, the other varied options, rho
        and perturbation where they vary, number of seeds, and (mean, standard error)
        of `gain`, in the best metric (the paper's early stopping), and `final_gain`,
        in the last. The error is None for fewer than two seeds.
    """
    sign = 1 if mode == "max" else -1
    done = [result for result in results if not result.failure]
    varied = _varied([result.config for result in done])
    method = ("sam", "rho", "perturbation", "seed")
    keys = ["width_mult", *(n for n in varied if n not in (*method, "width_mult"))]
    groups = {}
    for result in done:
        fields = result_fields(result.config)
        group = groups.setdefault(tuple(fields[key] for key in keys), {})
        rule = (fields["sam"], fields["perturbation"], fields["rho"])
        group.setdefault(rule, {})[fields["seed"]] = result
    rows = []
    for group_key, group in groups.items():
        base = next((by_seed for rule, by_seed in group.items() if not rule[0]), {})
        pairs = {
            rule: [(by_seed[s], base[s]) for s in by_seed if s in base]
            for rule, by_seed in group.items()
            if rule[0]
        }
        gains = {
            rule: [
                [sign * (getattr(a, name) - getattr(b, name)) for a, b in paired]
                for name in ("best", "final")
            ]
            for rule, paired in pairs.items()
            if paired
        }
        if not gains:
            continue
        (_, perturbation, rho), (best, final) = max(
            gains.items(), key=lambda item: statistics.mean(item[1][0])
        )
        row = dict(zip(keys, group_key, strict=True))
        if "perturbation" in varied:
            row["perturbation"] = perturbation
        row.update(rho=rho, seeds=len(best))
        row.update(gain=_mean_and_error(best), final_gain=_mean_and_error(final))
        rows.append(row)
    return rows


def _mean_and_error(values: list[float]) -> tuple[float, float | None]:
    error = None
    if len(values) > 1:
        error = statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), error


def _with_error(mean: float, error: float | None) -> str:
    return f"{mean:+.4f}" + ("" if error is None else f" ± {error:.4f}")


def print_address(tracker: Tracker) -> None:
    """Says how to open the runs in MLflow's user interface."""
    start = ""
    if tracker.uri == DEFAULT_URI:
        start = "make ui, then open "
    elif not tracker.uri.startswith("http"):
        start = f"mlflow ui --backend-store-uri {tracker.uri}, then open "
    print(f"Compare the runs: {start}{tracker.view_url}")


def _count_work(config: Config, splits: Splits) -> float:
    num_train = splits.info.num_train
    if isinstance(config, SupervisedConfig):
        num_train = data.count_examples(splits.train)
    per_epoch = data.steps_per_epoch(config, splits, num_train)
    return count_work(config, config.total_epochs * per_epoch)


def _console() -> Console:
    # A table in a pipe or a log is as wide as it needs to be.
    width = None if sys.stdout.isatty() else 200
    return Console(highlight=False, width=width)


def _check_writable(folder: Path) -> None:
    parent = folder.absolute()
    while not parent.exists():
        parent = parent.parent
    try:
        # A file that is gone at once: permissions alone do not tell for root, nor on
        # file systems mounted read-only.
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        raise InputError(
            f"--run_dir {folder} cannot be written: {error.strerror}"
        ) from None


def _read_once(configs: list[Config], splits: list[Splits]) -> list[Splits]:
    """Reads each data set once, however many runs share it."""
    shared = {}
    fields = (
        "dataset",
        "data_dir",
        "train_examples",
        "validation_examples",
        "max_length",
        "holdout",
        "image_size",
    )
    keys = [
        tuple(getattr(config, name) for name in fields)
        if isinstance(config, SupervisedConfig)
        else config
        for config in configs
    ]
    for key, loaded in zip(keys, splits, strict=True):
        _ = shared.setdefault(key, loaded).train
    return [shared[key] for key in keys]


def _find_finished(tracker: Tracker, configs: list[Config]) -> dict[int, Result]:
    """The results of the runs that MLflow holds as finished, by position."""
    finished = {}
    for i, config in enumerate(configs):
        mark = fingerprint(config, keras.backend.backend())
        found = tracker.find_finished(mark)
        if found is not None:
            monitor = find_workload(config.workload).monitor
            finished[i] = Result(
                config,
                num_params=int(found.data.params["num_params"]),
                num_nonzero=int(found.data.params["num_nonzero_params"]),
                best=found.data.metrics[f"best_{monitor}"],
                final=found.data.metrics[f"final_{monitor}"],
                seconds=(found.info.end_time - found.info.start_time) / 1000,
            )
    return finished


def _start_parent(tracker: Tracker, configs: list[Config]):
    config = configs[0]
    varied = ", ".join(
        f"{name} {','.join(_cell(value) for value in values)}"
        for name, values in _varied(configs).items()
    )
    tags = {"workload": config.workload, "grid": varied}
    folder = _grid_folder(configs)
    return tracker.start(f"grid: {varied}", tags, None, folder, fresh=config.rerun)


def _grid_folder(configs: list[Config]) -> Path:
    marks = sorted(fingerprint(c, keras.backend.backend()) for c in configs)
    digest = hashlib.sha256(" ".join(marks).encode()).hexdigest()
    return Path(configs[0].run_dir) / f"grid_{digest[:8]}"


def _varied(configs: list[Config]) -> dict[str, list]:
    """The fields that differ between runs, each with its values in order."""
    values = {}
    for config in configs:
        for name, value in result_fields(config).items():
            known = values.setdefault(name, [])
            if value not in known:
                known.append(value)
    return {name: known for name, known in values.items() if len(known) > 1}


def _label(config: Config, configs: list[Config]) -> str:
    values = result_fields(config)
    without_sam = ("rho", "perturbation")
    pairs = [
        f"{name}={_cell(values[name])}"
        for name in _varied(configs)
        if config.sam or name not in without_sam
    ]
    return " ".join(pairs) or run.run_name(config)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
