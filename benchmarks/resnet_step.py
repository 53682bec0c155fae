"""Seconds per step of ResNet-18 with SGD and SAM: samkeras against JAX and PyTorch.

    KERAS_BACKEND=jax python benchmarks/resnet_step.py
    KERAS_BACKEND=tensorflow python benchmarks/resnet_step.py --width_mult 0.25
    python benchmarks/resnet_step.py --torch_python ~/torch/bin/python --json times.json

The task is ResNet-18 for CIFAR-10 on random images, batch 128: momentum 0.9, learning
rate 0.01, coupled L2 1e-4, rho 0.05, with 16 and 64 filters in the first stage. The
contenders, in benchmarks/resnet_contenders.py:

    jax           a jitted step, written by hand in tests/references
    samkeras      samkeras.SAMModel.fit on the current keras backend
    pytorch       pytorch_optimizer's SAM and torch.optim.SGD, channels last; only with
                  --torch_python

Each is first checked against hand-written JAX: how far the weights are from its after
two steps, from the same start on the same batches, in parts of how far training went.
The check starts from offsets of 8, where no ReLU is near its kink: a rounding error
that takes one over it changes the gradient by a thousandth. From offsets of 0, those of
the timed steps, float32 programs differ by some percent; they are checked to 20%.
Then steps are timed in turns, so that other work on the machine slows all of them.
Seconds are medians over the rounds, and ratios medians of each round's ratio.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import sys
from pathlib import Path

import numpy as np
from contenders import BATCH, Contender, Worker
from resnet_contenders import CONTENDERS, Task
from resnet_contenders import __file__ as script
from rich.console import Console
from rich.table import Table
from step_time import installed, machine, measure, ratio

TOLERANCES = {8.0: 1e-4, 0.0: 0.2}  # by the offsets at the start


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--width_mult", default="0.25,1", help="multipliers of the widths, with commas")
    add("--steps", type=int, default=2, help="steps of each contender in a round")
    add("--rounds", type=int, default=7, help="timed rounds")
    add("--torch_python", help="an interpreter with PyTorch; default: leave it out")
    add("--json", type=Path, help="a file for the results")
    return parser.parse_args()


def deviations(names: list[str], start, task: Task) -> dict[str, float]:
    """||weights - the first contender's|| / ||those - the start|| after an epoch."""

    def flat(weights: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.ravel(w) for w in weights]).astype("float64")

    initial = task.initial_weights()
    before = flat([initial[name] for name in sorted(initial)])
    after = {}
    for name in names:
        with contextlib.closing(start(name, task)) as contender:
            contender.ordered_epoch(0)
            after[name] = flat(contender.weights())
    reference = after[names[0]]
    moved = np.linalg.norm(reference - before)
    return {n: float(np.linalg.norm(a - reference) / moved) for n, a in after.items()}


def summarize(names: list[str], seconds: dict, deviation: dict, steps: int) -> list:
    """One row per contender and method."""
    return [
        {
            "contender": name,
            "method": method,
            "median": statistics.median(times) / steps,
            "minimum": min(times) / steps,
            "to_first": ratio(times, seconds[names[0], method]),
            "to_sgd": ratio(times, seconds[name, "SGD"]),
            "deviation": deviation[method][name],
            "rounds": [time / steps for time in times],
        }
        for (name, method), times in seconds.items()
    ]


def print_table(rows: list[dict], title: str) -> None:
    first = rows[0]["contender"]
    headings = ["", "", "median s", "minimum s", f"/ {first}", "/ SGD", "deviation"]
    table = Table(*headings, title=title)
    for row in rows:
        name, method, *numbers, _ = row.values()
        table.add_row(name, method, *(f"{number:.3g}" for number in numbers))
    Console().print(table)


def main() -> None:
    args = parse_arguments()
    os.environ.setdefault("KERAS_BACKEND", "jax")
    names = ["jax", "samkeras"] + ["pytorch"] * bool(args.torch_python)

    def start(name: str, task: Task) -> Contender:
        if name == "pytorch":
            return Worker(args.torch_python, name, task, script)
        return CONTENDERS[name](task)

    torch_packages = installed(args.torch_python) if args.torch_python else {}
    report = {
        "machine": machine(),
        "packages": {**torch_packages, **installed(sys.executable)},
        "backend": os.environ["KERAS_BACKEND"],
        "steps": args.steps,
        "results": {},
    }
    wrong = []
    for width_mult in map(float, args.width_mult.split(",")):
        tasks = {
            method: Task(method == "SAM", width_mult, args.steps * BATCH, 1)
            for method in ("SGD", "SAM")
        }
        deviation = {}
        for offset, tolerance in TOLERANCES.items():
            for method, task in tasks.items():
                short = dataclasses.replace(task, examples=2 * BATCH, offset=offset)
                found = deviations(names, start, short)
                deviation.setdefault(method, found)
                wrong += [
                    f"{name} {method} at width x{width_mult:g} from offset {offset:g}"
                    for name in names
                    if not found[name] < tolerance
                ]
        seconds = measure(names, start, tasks, args.rounds)
        rows = summarize(names, seconds, deviation, args.steps)
        report["results"][str(width_mult)] = rows
        print_table(rows, f"ResNet-18, width x{width_mult:g}, {report['backend']}")
    print(*(f"{k} {v}" for k, v in report["machine"].items()), sep=", ")
    print(*(f"{k} {v}" for k, v in report["packages"].items()), sep=", ")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    if wrong:
        sys.exit("Not the same computation: " + ", ".join(wrong))


if __name__ == "__main__":
    main()
