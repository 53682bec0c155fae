"""Seconds per epoch with and without masks: what pruning costs a training step.

    KERAS_BACKEND=jax python benchmarks/mask_cost.py
    KERAS_BACKEND=tensorflow python benchmarks/mask_cost.py --width_mult 10

The task is that of benchmarks/step_time.py, LeNet-300-100. Both models are timed in
turns, and the ratio is the median of each round's.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path

from contenders import BATCH, SamKeras, Task

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--examples", type=int, default=36 * BATCH, help="number of images")
    add("--width_mult", type=float, default=10, help="multiplier of the widths")
    add("--sparsity", type=float, default=0.9, help="fraction of weights to prune")
    add("--rounds", type=int, default=7, help="timed epochs of each model")
    args = parser.parse_args()
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import samkeras

    steps = args.examples // BATCH
    for method in ("SGD", "SAM"):
        task = Task(method == "SAM", args.width_mult, steps * BATCH, min(36, steps))
        dense, pruned = SamKeras(task), SamKeras(task)
        samkeras.prune_at_init(pruned.model, "random", args.sparsity)
        seconds = {dense: [], pruned: []}
        for round_ in range(args.rounds + 1):
            for contender, times in seconds.items():
                times.append(contender.timed_epoch(round_))
        # The first round compiles.
        rounds = list(zip(seconds[pruned][1:], seconds[dense][1:], strict=True))
        ratio = statistics.median(a / b for a, b in rounds)
        dense_ms = 1000 * statistics.median(b for _, b in rounds) / steps
        print(
            f"{method}, width x{args.width_mult:g}, {os.environ['KERAS_BACKEND']}: "
            f"{dense_ms:.2f} ms a step dense; pruned by {args.sparsity:.0%} / dense = "
            f"{ratio:.3f}"
        )


if __name__ == "__main__":
    main()
