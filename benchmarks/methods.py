"""What does a step of each method cost, beside one of SGD?

    KERAS_BACKEND=jax python benchmarks/methods.py
    KERAS_BACKEND=tensorflow python benchmarks/methods.py --models lenet
    python benchmarks/methods.py --methods sam,sam_every_2,looksam,msam --save

The tasks are those of step_time.py, LeNet-300-100, and of resnet_step.py, ResNet-18
with 16 filters in the first stage. The contenders are samkeras' methods with their
default values, which train the same number of steps. What `passes` says is the least
that a method can cost: the rest is what it does with weight-sized tensors.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import resnet_step
import step_time
from harness import (
    Row,
    make_parser,
    names_of,
    report,
    row,
    train_in_turns,
)
from step_time import BATCH

from samkeras.experiment.options.methods import CLASSES

METHODS = (*CLASSES, "sam_every_2", "gsam_every_2")


def build_method(name: str) -> Any:
    """A method at its default values, or None for SGD."""
    import samkeras

    if name == "sgd":
        return None
    kind, _, every = name.partition("_every_")
    options = {"every": int(every)} if every else {}
    return getattr(samkeras, CLASSES[kind])(**options)


def choose(contender: type, name: str) -> type:
    """A contender of another benchmark with a method."""

    class Chosen(contender):
        def build_method(self, task):
            return build_method(name)

    return Chosen


def start_each(model: str, args: argparse.Namespace) -> dict[str, Callable]:
    """How each method's contender is started, SGD's first."""
    benchmark, width_mult, steps, execution = {
        "lenet": (step_time, 1.0, args.examples // BATCH, 36),
        "resnet": (resnet_step, 0.25, args.steps, 1),
    }[model]
    task = benchmark.Task(True, width_mult, steps * BATCH, execution)
    return {
        f"{model} {name}": partial(choose(benchmark.SamKeras, name), task)
        for name in ("sgd", *args.methods)
    }


def compare(model: str, args: argparse.Namespace) -> list[Row]:
    """A row for each method."""
    seconds = train_in_turns(start_each(model, args), args.rounds)
    return [
        row(seconds, name, f"{model} sgd", passes=find_passes(name.split()[1]))
        for name in seconds
    ]


def find_passes(name: str) -> float:
    method = build_method(name)
    return 1.0 if method is None else method.passes


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__file__, __doc__)
    add = parser.add_argument
    default = ["sam", "sam_every_2", "looksam", "msam"]
    names = f"which ones, with commas, of {', '.join(METHODS)}"
    add("--methods", type=names_of(METHODS), default=default, help=names)
    models = ("lenet", "resnet")
    add("--models", type=names_of(models), default=[*models], help="lenet, resnet")
    add("--examples", type=int, default=60_000, help="of an epoch of lenet")
    add("--steps", type=int, default=10, help="of an epoch of resnet")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    report(args, [line for model in args.models for line in compare(model, args)])


if __name__ == "__main__":
    main()
