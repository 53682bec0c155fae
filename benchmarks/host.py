"""What does an epoch of a run cost the host, beside what the device does in it?

    KERAS_BACKEND=jax python benchmarks/host.py
    KERAS_BACKEND=tensorflow python benchmarks/host.py --width_mult 1 --examples 6400

The run is one of workloads/mnist_mlp with SAM on random images of MNIST's size, in a
temporary folder: epochs that are validated, shown, recorded in MLflow and kept in
checkpoints, with the data on the device. Beside it the same calls of the device alone,
one after the other, on a model of the same kind. Seconds are an epoch's. `host_ms` is
what a whole one takes more; records and checkpoints are written in the background.
"""

import argparse
import contextlib
import dataclasses
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import Row, make_parser, report, row, time_in_turns


def write_images(path: Path, count: int) -> None:
    """Random images, a sixth as many to validate on as to train on, as MNIST has."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name, size in (("train", count), ("test", count // 6)):
        arrays[f"x_{name}"] = rng.integers(0, 256, (size, 28, 28), np.uint8)
        arrays[f"y_{name}"] = rng.integers(0, 10, size)
    np.savez(path, **arrays)


def make_run(folder: Path, width_mult: float, examples: int, total: int) -> Any:
    """A run of `total` epochs, and its data."""
    from samkeras.experiment.options.parsing import parse_command
    from samkeras.experiment.options.targets import find_target
    from samkeras.experiment.runs.data import read_data
    from samkeras.experiment.runs.recall import Recall
    from samkeras.experiment.runs.run import Run

    path = folder / "images.npz"
    write_images(path, examples)
    options = ["--dataset", f"{path}", "--epochs", f"{total}", "--sam"]
    options += ["--width_mult", f"{width_mult}"]
    (config,) = parse_command(find_target("mnist_mlp"), options).configs
    return Run(config), read_data(config, Recall())


class WholeRun:
    """A run as run.py trains it, some epochs at a time.

    Args:
        run, splits: as of `make_run`.
        folder: of its files.
        progress: told how far it is.
    """

    def __init__(self, run: Any, splits: Any, folder: Path, progress: Any):
        from samkeras.experiment.options.session import Session
        from samkeras.experiment.runs.interrupt import StopRequest
        from samkeras.experiment.runs.train import train
        from samkeras.experiment.runs.turns import Device
        from samkeras.experiment.tracking.tracker import MLflowTracker

        self.tracker = MLflowTracker(f"sqlite:///{folder / 'mlflow.db'}", "benchmark")
        session = Session(run_dir=f"{folder / 'runs'}")
        self.training = train(
            run, session, splits, self.tracker, None, progress, StopRequest()
        )
        self.device, self.call = Device(), next(self.training)
        self.calls = []  # of the last epoch, as the device took them

    def epoch(self) -> None:
        """Goes on to the first call of the next epoch."""
        self.calls = [self._take()]
        while self.calls[-1].is_training or not self.call.is_training:
            self.calls.append(self._take())

    def _take(self) -> Any:
        call = self.call
        (steps,) = self.device.take([call])
        self.call = self.training.send(steps)
        return dataclasses.replace(call, batches=call.batches[: steps.count])

    def close(self) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            self.training.throw(KeyboardInterrupt)
        self.tracker.close()


class DeviceAlone:
    """What the device did in a whole run's last epoch, on a model of its own."""

    def __init__(self, whole: WholeRun, run: Any, splits: Any):
        from samkeras.experiment.runs.build import build_model, compile_model

        self.whole, self.model = whole, build_model(run, splits.info)
        steps = run.task.steps_per_epoch(run.config, splits)
        compile_model(run, self.model, steps)

    def epoch(self) -> None:
        from samkeras.backend import backend

        takes = {True: self.model.train_on_batches, False: self.model.test_on_batches}
        for is_training, take in takes.items():
            self.model.reset_metrics()
            for call in self.whole.calls:
                if call.is_training is is_training:
                    logs = take(call.batches, call.like)
            backend.fetch(logs)


def measure(args: argparse.Namespace, folder: Path) -> list[Row]:
    """A row of a whole run's epochs, and one of the device's alone."""
    from samkeras.experiment.runs.progress import ProgressDisplay

    total = (args.rounds + 1) * args.epochs + 1
    run, splits = make_run(folder, args.width_mult, args.examples, total)
    work = total * run.passes * run.task.steps_per_epoch(run.config, splits)
    with (
        ProgressDisplay({0: work}, {0: run.title}, verbose=1) as progress,
        contextlib.closing(
            WholeRun(run, splits, folder, progress.start_run(0))
        ) as whole,
    ):
        alone = DeviceAlone(whole, run, splits)

        def repeat(epoch: Callable[[], None]) -> Callable[[int], object]:
            return lambda _: [epoch() for _ in range(args.epochs)]

        turns = {"whole run": repeat(whole.epoch), "device": repeat(alone.epoch)}
        seconds = time_in_turns(turns, args.rounds, per=args.epochs)
    pairs = zip(seconds["whole run"], seconds["device"], strict=True)
    more = statistics.median(whole - device for whole, device in pairs)
    return [
        row(seconds, "device", "device"),
        row(seconds, "whole run", "device", host_ms=1000 * more),
    ]


def main() -> None:
    parser = make_parser(__file__, __doc__)
    add = parser.add_argument
    add("--width_mult", type=float, default=0.1, help="multiplier of the widths")
    add("--examples", type=int, default=60_000, help="images to train on")
    add("--epochs", type=int, default=10, help="of a turn")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(args, Path(folder))
    report(args, rows)


if __name__ == "__main__":
    main()
