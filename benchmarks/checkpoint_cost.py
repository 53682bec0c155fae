"""What a checkpoint costs: how long training waits for it, as a part of an epoch.

    KERAS_BACKEND=jax python benchmarks/checkpoint_cost.py

The task is that of benchmarks/step_time.py at a width multiplier of 10. Training waits
for the copy of its state to the host; the file is written beside the next steps, and
its time is shown for comparison.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from contenders import BATCH, SamKeras, Task

sys.path.insert(0, str(Path(__file__).parents[1]))

WIDTH_MULT, STEPS, ROUNDS, STEPS_PER_EPOCH = 10, 36, 7, 469


def main() -> None:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    from samkeras.experiment.runs.checkpoint import Checkpoints, capture

    for method in ("SGD", "SAM"):
        contender = SamKeras(Task(method == "SAM", WIDTH_MULT, STEPS * BATCH, STEPS))
        contender.timed_epoch(0)  # compiles
        epochs, copies, writes = [], [], []
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = Checkpoints(Path(folder), "benchmark", print)
            for round_ in range(1, ROUNDS + 1):
                seconds = contender.timed_epoch(round_)
                epochs.append(seconds * STEPS_PER_EPOCH / STEPS)
                start = time.perf_counter()
                arrays = capture(contender.model)
                copies.append(time.perf_counter() - start)
                checkpoints.save(round_, 0, arrays, {})
                checkpoints.wait()
                writes.append(time.perf_counter() - start)
        epoch, copy, write = map(statistics.median, (epochs, copies, writes))
        size = sum(array.nbytes for array in arrays.values()) / 1e6
        print(
            f"{method}, width x{WIDTH_MULT}, {os.environ['KERAS_BACKEND']}: epoch "
            f"{epoch:.1f} s, copy {1000 * copy:.0f} ms ({copy / epoch:.2%} of it), "
            f"copy and write {1000 * write:.0f} ms ({write / epoch:.2%}), {size:.0f} MB"
        )


if __name__ == "__main__":
    main()
