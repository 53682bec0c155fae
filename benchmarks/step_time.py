"""Seconds per epoch of SGD and SAM: samkeras against other ways to write them.

    KERAS_BACKEND=jax python benchmarks/step_time.py
    KERAS_BACKEND=tensorflow python benchmarks/step_time.py --width_mult 1,10
    python benchmarks/step_time.py --torch_python ~/torch/bin/python --json times.json

The task is LeNet-300-100 on random 28 x 28 images: momentum 0.9, learning rate 0.01,
coupled L2 1e-4, rho 0.05, batch 128. The contenders, in benchmarks/contenders.py:

    scan          a whole epoch in one jax.lax.scan of a step written by hand, that of
                  tests/references
    samkeras      samkeras.SAMModel.fit on the current keras backend
    plain keras   keras.Model.fit; for SAM, the usual train_step of one's own
    optax + flax  optax.contrib.sam, a jitted step in a Python loop
    pytorch       pytorch_optimizer's SAM and torch.optim.SGD

Those whose packages are missing are left out; --torch_python runs the last one in
another interpreter. Each is first checked against the first of the list: the weights
after the steps of one execution, from the same start on the same batches. Then epochs
are timed in turns, so that other work on the machine slows all of them. Seconds are
medians over the rounds, and ratios medians of each round's ratio.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from contenders import BATCH, CONTENDERS, Contender, Task, Worker
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

REQUIRED = {
    "scan": ("jax",),
    "samkeras": ("keras",),
    "plain keras": ("keras",),
    "optax + flax": ("optax", "flax"),
    "pytorch": ("torch", "pytorch_optimizer"),
}
PACKAGES = ["numpy", *dict.fromkeys(sum(REQUIRED.values(), ())), "tensorflow"]
TOLERANCE = 1e-4
Start = Callable[[str, Task], Contender]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--examples", type=int, default=60_000, help="number of images")
    add("--width_mult", default="1", help="multipliers of the widths, with commas")
    add("--rounds", type=int, default=7, help="timed epochs of each contender")
    add("--steps_per_execution", type=int, default=36, help="of samkeras")
    add("--contenders", default=",".join(REQUIRED), help="which ones, with commas")
    add("--torch_python", default=sys.executable, help="an interpreter with PyTorch")
    add("--json", type=Path, help="a file for the results")
    return parser.parse_args()


def installed(python: str) -> dict[str, str]:
    """Versions of the packages of interest in an interpreter."""
    program = (
        "import json; from importlib.metadata import distributions as all\n"
        "print(json.dumps({d.metadata['Name']: d.version for d in all()}))"
    )
    found = json.loads(subprocess.check_output([python, "-c", program]))
    return {name: found[name] for name in PACKAGES if name in found}


def deviations(names: list[str], start: Start, task: Task) -> dict[str, float]:
    """Largest difference of any weight from the first contender's after an epoch."""
    weights = {}
    for name in names:
        with contextlib.closing(start(name, task)) as contender:
            contender.ordered_epoch(0)
            weights[name] = contender.weights()
    reference = weights[names[0]]
    return {
        name: max(float(abs(a - b).max()) for a, b in zip(ours, reference, strict=True))
        for name, ours in weights.items()
    }


def measure(names: list[str], start: Start, tasks: dict[str, Task], rounds: int):
    """Seconds of each round, by (contender, method); an untimed round comes first."""
    with contextlib.ExitStack() as stack:
        contenders = {}
        for name in names:
            for method, task in tasks.items():
                contender = start(name, task)
                contenders[name, method] = stack.enter_context(
                    contextlib.closing(contender)
                )
        for contender in contenders.values():
            contender.epoch(0)
        seconds = {key: [] for key in contenders}
        for round_ in range(1, rounds + 1):
            for key, contender in contenders.items():
                seconds[key].append(contender.timed_epoch(round_))
    return seconds


def ratio(above: list[float], below: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def summarize(names: list[str], seconds: dict, deviation: dict) -> list[dict]:
    """One row per contender."""
    rows = []
    for name in names:
        sgd, sam = seconds[name, "SGD"], seconds[name, "SAM"]
        rows.append(
            {
                "contender": name,
                "sgd_seconds": statistics.median(sgd),
                "sam_seconds": statistics.median(sam),
                "sgd_to_first": ratio(sgd, seconds[names[0], "SGD"]),
                "sam_to_first": ratio(sam, seconds[names[0], "SAM"]),
                "sam_to_sgd": ratio(sam, sgd),
                "deviation": max(deviation[m][name] for m in ("SGD", "SAM")),
                "rounds": {"SGD": sgd, "SAM": sam},
            }
        )
    return rows


def print_table(rows: list[dict], title: str) -> None:
    first = rows[0]["contender"]
    headings = ["", "SGD s", "SAM s", f"SGD / {first}", f"SAM / {first}"]
    headings += ["SAM / SGD", "deviation"]
    table = Table(*headings, title=title)
    for row in rows:
        numbers = [v for k, v in row.items() if k not in ("contender", "rounds")]
        table.add_row(row["contender"], *(f"{number:.3g}" for number in numbers))
    Console().print(table)


def machine() -> dict:
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line for line in lines if line.startswith("model name")]
        cpu = models[0].split(": ")[1]
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version()}


def main() -> None:
    args = parse_arguments()
    packages, torch_packages = installed(sys.executable), installed(args.torch_python)
    names = [
        name
        for name in args.contenders.split(",")
        if set(REQUIRED[name]) <= set(torch_packages if name == "pytorch" else packages)
    ]
    os.environ.setdefault("KERAS_BACKEND", "jax")

    def start(name: str, task: Task) -> Contender:
        if name == "pytorch":
            return Worker(args.torch_python, name, task)
        return CONTENDERS[name](task)

    report = {
        "machine": machine(),
        "packages": {**torch_packages, **packages},
        "settings": {**vars(args), "json": None, "torch_python": None},
        "backend": os.environ["KERAS_BACKEND"],
        "results": {},
    }
    for width_mult in map(float, args.width_mult.split(",")):
        steps = args.examples // BATCH
        tasks = {
            method: Task(
                method == "SAM", width_mult, steps * BATCH, args.steps_per_execution
            )
            for method in ("SGD", "SAM")
        }
        deviation = {
            method: deviations(
                names,
                start,
                dataclasses.replace(task, examples=args.steps_per_execution * BATCH),
            )
            for method, task in tasks.items()
        }
        seconds = measure(names, start, tasks, args.rounds)
        rows = summarize(names, seconds, deviation)
        report["results"][str(width_mult)] = rows
        title = f"{steps} steps an epoch, width x{width_mult:g}, {report['backend']}"
        print_table(rows, title)
    print(*(f"{k} {v}" for k, v in report["machine"].items()), sep=", ")
    print(*(f"{k} {v}" for k, v in report["packages"].items()), sep=", ")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    wrong = [
        f"{row['contender']} at width x{width}"
        for width, rows in report["results"].items()
        for row in rows
        if not row["deviation"] < TOLERANCE
    ]
    if wrong:
        sys.exit("Not the same computation: " + ", ".join(wrong))


if __name__ == "__main__":
    main()
