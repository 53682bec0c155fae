"""What the benchmarks share: turns, ratios, processes, the table and the JSON.

A benchmark is one file for one question, the first line of its docstring, and brings
its contenders and its arguments alone:

    args = make_parser(__file__, __doc__).parse_args()
    seconds = time_in_turns({"jax": train_by_hand, "samkeras": train}, args.rounds)
    report(args, [row(seconds, name, "jax") for name in seconds])

Import it before samkeras and tests: it makes them importable, and JAX the backend where
KERAS_BACKEND names none. It needs NumPy alone, for workers in other interpreters.
"""

import argparse
import contextlib
import dataclasses
import datetime
import importlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
TIMING = """
Each contender has an untimed turn first, in which it compiles. Then they take turns, so
that other work on the machine slows all of them. Seconds are medians over the rounds,
low and high the least and the most, and ratios medians of each round's ratio.
"""
PACKAGES = (
    "numpy",
    "keras",
    "jax",
    "tensorflow",
    "optax",
    "flax",
    "torch",
    "pytorch_optimizer",
    "pillow",
    "tensorflow-datasets",
    "gymnasium",
    "ale-py",
)
Seconds = dict[str, list[float]]  # of each round, by the contender's name
Row = dict[str, Any]

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("KERAS_BACKEND", "jax")


# Arguments.


def make_parser(
    script: str, doc: str, rounds: int | None = 7
) -> argparse.ArgumentParser:
    """Makes a benchmark's parser, with --save and, if it takes turns, --rounds."""
    parser = argparse.ArgumentParser(
        prog=f"benchmarks/{Path(script).name}",
        description=doc,
        epilog=TIMING if rounds else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(script=Path(script).name, question=doc.splitlines()[0])
    if rounds:
        parser.add_argument(
            "--rounds", type=int, default=rounds, help="timed turns of each contender"
        )
    parser.add_argument(
        "--save",
        metavar="NAME",
        nargs="?",
        const=Path(script).stem,
        help="write benchmarks/results/NAME.json; without a name, the benchmark's",
    )
    return parser


def numbers(text: str) -> list[float]:
    """The argument type of numbers with commas between them."""
    return [float(part) for part in text.split(",")]


def names_of(allowed: Collection[str]) -> Callable[[str], list[str]]:
    """Makes the argument type of some names of `allowed` with commas between them."""

    def names(text: str) -> list[str]:
        for name in text.split(","):
            if name not in allowed:
                raise argparse.ArgumentTypeError(
                    f"{name!r} is none of {', '.join(allowed)}"
                )
        return text.split(",")

    return names


# Turns.


def time_in_turns(
    turns: Mapping[str, Callable[[int], object]],
    rounds: int,
    per: float = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Seconds:
    """Times each contender once a round, after an untimed round 0.

    Args:
        turns: one turn of each contender, called with the round's number.
        rounds: how many are timed.
        per: what a turn's seconds are divided by, as its number of steps.
        clock: seconds now.
    """
    seconds: Seconds = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, turn in turns.items():
            started = clock()
            turn(number)
            seconds[name].append((clock() - started) / per)
    return {name: times[1:] for name, times in seconds.items()}


def ratio(seconds: Seconds, name: str, to: str) -> float:
    """The median of each round's ratio: both were slowed alike in a round."""
    pairs = zip(seconds[name], seconds[to], strict=True)
    return statistics.median(above / below for above, below in pairs)


def row(seconds: Seconds, name: str, to: str, **more: Any) -> Row:
    """One contender's line of the report; `more` are columns of the benchmark's own."""
    return {
        "name": name,
        "median_s": statistics.median(seconds[name]),
        "low": min(seconds[name]),
        "high": max(seconds[name]),
        "ratio_to": to,
        "ratio": ratio(seconds, name, to),
        **more,
    }


# Contenders that train, here or in a process of their own.


class Contender:
    """One way to train a task. A subclass trains in `epoch` and returns when done."""

    def epoch(self, number: int) -> None:
        raise NotImplementedError

    def ordered_epoch(self, number: int) -> None:
        """An epoch whose batches follow the task's order."""
        self.epoch(number)

    def weights(self) -> list[np.ndarray]:
        raise NotImplementedError

    def close(self) -> None:
        """Releases what does not go away with the object."""


def train_epoch(model: Any, batches: Any) -> dict[str, float]:
    """Trains a samkeras model on an epoch's batches as run.py does; the epoch's
    logs."""
    model.reset_metrics()
    for part in batches.take(model.steps_per_execution):
        model.train_on_batches(part, batches.specs)
    logs = {**model.get_metrics_result(), **model.get_gradient_metrics_result()}
    return {name: float(value) for name, value in logs.items()}


class Worker(Contender):
    """A contender in a process of its own, of any interpreter: one of the CONTENDERS of
    a benchmark's module, made of the module's Task."""

    def __init__(self, python: str, module: str, name: str, task: Any):
        fields = json.dumps(dataclasses.asdict(task))
        self.process = subprocess.Popen(
            [python, __file__, module, name, fields],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._wait()

    def _wait(self, request: str = "") -> None:
        if request:
            print(request, file=self.process.stdin, flush=True)
        if not self.process.stdout.readline():
            raise RuntimeError(f"The worker {self.process.args[:4]} has died.")

    def epoch(self, number):
        self._wait(f"epoch {number}")

    def ordered_epoch(self, number):
        self._wait(f"ordered_epoch {number}")

    def weights(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "weights.npz")
            self._wait(f"weights {path}")
            return list(np.load(path).values())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def serve(contender: Contender) -> None:
    """Answers a Worker's requests until its pipe closes."""
    print("ready", flush=True)
    for request in sys.stdin:
        verb, argument = request.rstrip("\n").split(" ", 1)
        if verb == "weights":
            np.savez(argument, *contender.weights())
        else:
            getattr(contender, verb)(int(argument))
        print("done", flush=True)


@contextlib.contextmanager
def full_precision() -> Generator[None]:
    """Has contenders, on either backend, compute in float32 alone: they are compared in
    it, and timed as a GPU or TPU computes where it is not told."""
    import jax

    from samkeras.backend import backend

    with backend.full_precision(), jax.default_matmul_precision("highest"):
        yield


@full_precision()
def train_each(contenders: Mapping[str, Callable[[], Contender]]) -> dict[str, list]:
    """The weights of each contender after an epoch in the task's order."""
    weights = {}
    for name, start in contenders.items():
        with contextlib.closing(start()) as contender:
            contender.ordered_epoch(0)
            weights[name] = contender.weights()
    return weights


def train_in_turns(
    contenders: Mapping[str, Callable[[], Contender]], rounds: int, per: float = 1
) -> Seconds:
    """Seconds of each contender's epochs; all are started first."""
    with contextlib.ExitStack() as stack:
        started = {
            name: stack.enter_context(contextlib.closing(start()))
            for name, start in contenders.items()
        }
        turns = {name: contender.epoch for name, contender in started.items()}
        return time_in_turns(turns, rounds, per)


def demand_same(deviations: Mapping[str, float], tolerance: float) -> None:
    """Ends the benchmark where a contender computes something else."""
    wrong = [
        f"{name} ({deviation:.2g})"
        for name, deviation in deviations.items()
        if not deviation <= tolerance
    ]
    if wrong:
        sys.exit("Not the same computation: " + ", ".join(wrong))


# The report.


def report(
    args: argparse.Namespace, rows: list[Row], python: str | None = None
) -> None:
    """Prints the rows, the machine and the versions, and saves them where asked to.

    Args:
        args: of a parser of `make_parser`.
        rows: the answer.
        python: another interpreter in which contenders ran.
    """
    from samkeras.experiment.machine import describe_machine, find_versions

    packages = {**installed(python or sys.executable), **installed(sys.executable)}
    answer = {
        "question": args.question,
        "command": command(args.script),
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
        "versions": {**find_versions(), **packages},
        "rows": rows,
    }
    print_table(answer["question"], rows)
    for known in (answer["machine"], answer["versions"]):
        print(*(f"{key} {value}" for key, value in known.items()), sep=", ")
    if args.save:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{args.save}.json"
        path.write_text(json.dumps(answer, indent=1) + "\n")


def print_table(title: str, rows: list[Row]) -> None:
    """Prints a column for each number that a row has."""
    from rich.console import Console
    from rich.table import Table

    columns = dict.fromkeys(key for line in rows for key in line)
    columns = [c for c in columns if any(line.get(c) is not None for line in rows)]
    table = Table(title=title)
    for column in columns:
        heading = "" if column == "name" else column.replace("_", " ")
        table.add_column(heading, no_wrap=column in ("name", "ratio_to"))
    for line in rows:
        table.add_row(*(cell(line.get(column)) for column in columns))
    Console(width=200).print(table)  # no cell is cut, in a pipe neither


def cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else str(value)


def command(script: str) -> str:
    """What was typed, in the project's folder."""
    words = [f"KERAS_BACKEND={os.environ['KERAS_BACKEND']}", "python"]
    words += [f"benchmarks/{script}", *sys.argv[1:]]
    return shlex.join(words).replace(str(Path.home()), "~")


def installed(python: str) -> dict[str, str]:
    """Versions of the packages of interest in an interpreter."""
    program = (
        "import json; from importlib.metadata import distributions as all\n"
        "print(json.dumps({d.metadata['Name']: d.version for d in all()}))"
    )
    found = json.loads(subprocess.check_output([python, "-c", program]))
    return {name: found[name] for name in PACKAGES if name in found}


if __name__ == "__main__":
    benchmark = importlib.import_module(sys.argv[1])
    serve(benchmark.CONTENDERS[sys.argv[2]](benchmark.Task(**json.loads(sys.argv[3]))))
