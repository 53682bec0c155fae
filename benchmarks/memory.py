"""Memory of a training step of ResNet-18 with SGD and SAM, as XLA plans it.

    python benchmarks/memory.py [WIDTH_MULT ...]

The numbers are of the compiled step on JAX, batch 128: what is passed in and out and
the temporary buffers at their fullest. SAM's step keeps half a copy of the weights for
the cosine between both gradients. What it needs beyond that lies between the planned
buffers: a fraction of a MB, which is much only where the weights are small.
"""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import samkeras
from samkeras.models.resnet import build_resnet18

MB = 1e6


def plan_memory(width_mult: float, sam: bool) -> tuple[float, float, float]:
    """The trainable weights, the temporary buffers and the whole step, in MB."""
    model = build_resnet18((32, 32, 3), 10, width_mult)
    model.compile(
        samkeras.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        method=samkeras.SAM(0.05) if sam else None,
        l2=1e-4,
    )
    batch = (np.zeros((128, 32, 32, 3), "uint8"), np.zeros(128, "int32"))
    model.build_for(batch)
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([v.value for v in variables] for variables in groups)
    step = jax.jit(model.train_step, donate_argnums=0)
    plan = step.lower(state, batch).compile().memory_analysis()
    peak = plan.argument_size_in_bytes + plan.output_size_in_bytes
    peak += plan.temp_size_in_bytes - plan.alias_size_in_bytes
    weights = sum(value.nbytes for value in state[0])
    return weights / MB, plan.temp_size_in_bytes / MB, peak / MB


def main() -> None:
    headings = ["width", "weights MB", "", "temporary MB", "peak MB"]
    headings += ["more than SGD, MB", "in copies of the weights"]
    table = Table(*headings, title="A step of ResNet-18, batch 128")
    for width_mult in map(float, sys.argv[1:] or ["0.25", "1"]):
        for method in ("SGD", "SAM"):
            weights, temporary, peak = plan_memory(width_mult, method == "SAM")
            cells = [f"{width_mult:g}", f"{weights:.1f}", method]
            cells += [f"{temporary:.1f}", f"{peak:.1f}"]
            if method == "SGD":
                sgd_peak = peak
            else:
                more = peak - sgd_peak
                cells += [f"{more:.1f}", f"{more / weights:.2f}"]
            table.add_row(*cells)
    Console().print(table)


if __name__ == "__main__":
    main()
