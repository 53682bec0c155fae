"""What does pruning cost: how long does a step take with masks, beside one without?

    KERAS_BACKEND=jax python benchmarks/mask_cost.py
    KERAS_BACKEND=tensorflow python benchmarks/mask_cost.py --width_mult 10

The task is that of benchmarks/step_time.py, LeNet-300-100.
"""

from harness import make_parser, report, row, time_in_turns
from step_time import BATCH, SamKeras, Task


def main() -> None:
    parser = make_parser(__file__, __doc__)
    add = parser.add_argument
    add("--examples", type=int, default=36 * BATCH, help="number of images")
    add("--width_mult", type=float, default=10, help="multiplier of the widths")
    add("--sparsity", type=float, default=0.9, help="fraction of weights to prune")
    args = parser.parse_args()
    import samkeras

    steps, rows = args.examples // BATCH, []
    for method in ("SGD", "SAM"):
        task = Task(method == "SAM", args.width_mult, steps * BATCH, min(36, steps))
        dense, pruned = SamKeras(task), SamKeras(task)
        samkeras.prune_at_init(pruned.model, "random", args.sparsity)
        turns = {f"dense {method}": dense.epoch, f"pruned {method}": pruned.epoch}
        seconds = time_in_turns(turns, args.rounds, per=steps)
        rows += [row(seconds, name, f"dense {method}") for name in turns]
    report(args, rows)


if __name__ == "__main__":
    main()
