"""What does a checkpoint cost: what part of an epoch does training wait for it?

    KERAS_BACKEND=jax python benchmarks/checkpoint_cost.py

The task is that of benchmarks/step_time.py at a width multiplier of 10. Training waits
for the copy of its state to the host; the file is written beside the next steps, and
its time is shown for comparison.
"""

import tempfile
from pathlib import Path

from harness import Row, make_parser, report, row, time_in_turns
from step_time import BATCH, SamKeras, Task

WIDTH_MULT, STEPS, STEPS_PER_EPOCH = 10, 36, 469


def measure(method: str, folder: Path, rounds: int) -> list[Row]:
    """Rows of an epoch, of the copy of its state, and of the copy and the file."""
    from samkeras.experiment.runs.checkpoint import Checkpoints, capture

    contender = SamKeras(Task(method == "SAM", WIDTH_MULT, STEPS * BATCH, STEPS))
    checkpoints = Checkpoints(folder, "benchmark", print)

    def copy_and_write(number: int) -> None:
        checkpoints.save(number, 0, capture(contender.model), {})
        checkpoints.wait()

    epoch = f"{method} epoch"
    turns = {
        epoch: contender.epoch,
        f"{method} copy": lambda _: capture(contender.model),
        f"{method} copy and write": copy_and_write,
    }
    seconds = time_in_turns(turns, rounds)
    seconds[epoch] = [s * STEPS_PER_EPOCH / STEPS for s in seconds[epoch]]
    size = sum(array.nbytes for array in capture(contender.model).values()) / 1e6
    return [row(seconds, name, epoch, state_MB=size) for name in turns]


def main() -> None:
    args = make_parser(__file__, __doc__).parse_args()
    rows = []
    for method in ("SGD", "SAM"):
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(method, Path(folder), args.rounds)
    report(args, rows)


if __name__ == "__main__":
    main()
