"""How long does a run's epoch take where several runs train in one program?

    python benchmarks/replicas.py
    python benchmarks/replicas.py --replicas 1,4 --examples 6400 --width_mult 0.1,1

The task is that of benchmarks/step_time.py, LeNet-300-100 with SAM on random images, on
JAX, which alone trains runs together. Runs differ in weights, orders and rho, as those
of `run.py --replicas` may. Seconds are a run's share of the epoch that all take. Each
number of runs is first checked: the weights of the first and the last one, after the
steps of one execution, beside those of the same runs alone.
"""

import dataclasses
import functools
import os

import numpy as np
from harness import (
    Contender,
    Row,
    demand_same,
    make_parser,
    numbers,
    report,
    row,
    train_each,
    train_epoch,
    train_in_turns,
)
from step_time import BATCH, RHO, SamKeras, Task, largest_deviations

TOLERANCE = 1e-5
STEPS = 36  # of an execution


@functools.cache
def load(examples: int) -> tuple[np.ndarray, np.ndarray]:
    return Task(True, 1.0, examples, STEPS).data()


@dataclasses.dataclass(frozen=True)
class Member(Task):
    """A run of a group: on the same images as the others."""

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        return load(self.examples)


class Replicas(Contender):
    """Runs, by their seeds, in one program, or one alone as run.py trains it."""

    def __init__(self, width_mult: float, examples: int, seeds: list[int]):
        self.members = []
        for seed in seeds:
            member = SamKeras(Member(True, width_mult, examples, STEPS, seed))
            member.model.method.rho = RHO / (seed + 1)
            self.members.append(member)

    def epoch(self, number):
        from samkeras.backend import backend

        for member in self.members:
            member.batches.start_epoch(number)
        first, *others = self.members
        if not others:
            train_epoch(first.model, first.batches)
            return
        models = [member.model for member in self.members]
        parts = [member.batches.take(STEPS) for member in self.members]
        for model in models:
            model.reset_metrics()
        for rows in zip(*parts, strict=True):
            logs = first.model.take_together(models, rows, is_training=True)
        backend.fetch(logs)

    def weights(self):
        ends = (self.members[0], self.members[-1])
        return [weight for member in ends for weight in member.weights()]


def find_deviation(width_mult: float, count: int) -> float:
    """The largest difference of the first and last of runs from the same ones alone."""
    start = functools.partial(Replicas, width_mult, STEPS * BATCH)
    together, first, last = train_each(
        {
            "together": lambda: start([*range(count)]),
            "first": lambda: start([0]),
            "last": lambda: start([count - 1]),
        }
    ).values()
    half = len(together) // 2
    alone = [*first[:half], *last[:half]]
    return largest_deviations({"alone": alone, "together": together})["together"]


def compare(
    width_mult: float, counts: list[int], examples: int, rounds: int
) -> list[Row]:
    """A row for each number of runs, beside a run alone."""
    names = {count: f"{count} x{width_mult:g}" for count in dict.fromkeys([1, *counts])}
    found = {name: find_deviation(width_mult, count) for count, name in names.items()}
    demand_same(found, TOLERANCE)
    starts = {
        name: functools.partial(Replicas, width_mult, examples, [*range(count)])
        for count, name in names.items()
    }
    seconds = train_in_turns(starts, rounds)
    for count, name in names.items():
        seconds[name] = [each / count for each in seconds[name]]
    return [
        row(seconds, name, names[1], replicas=count, deviation=found[name])
        for count, name in names.items()
    ]


def main() -> None:
    parser = make_parser(__file__, __doc__, rounds=3)
    add = parser.add_argument
    widths = "multipliers of the widths, with commas"
    add("--width_mult", type=numbers, default=[1.0], help=widths)
    counts = "numbers of runs, with commas"
    add("--replicas", type=numbers, default=[1, 4, 16, 64], help=counts)
    add("--examples", type=int, default=60_000, help="number of images")
    args = parser.parse_args()
    os.environ["KERAS_BACKEND"] = "jax"
    counts, examples = [*map(int, args.replicas)], args.examples // BATCH * BATCH
    rows = []
    for width_mult in args.width_mult:
        rows += compare(width_mult, counts, examples, args.rounds)
    report(args, rows)


if __name__ == "__main__":
    main()
