"""How much memory does a step of ResNet-18 take with SGD and SAM, as XLA plans it?

    python benchmarks/memory.py [WIDTH_MULT ...]

The numbers are of the compiled step on JAX, batch 128: what is passed in and out and
the temporary buffers at their fullest. SAM's step keeps half a copy of the weights for
the cosine between both gradients. What it needs beyond that lies between the planned
buffers: a fraction of a MB, which is much only where the weights are small.
"""

import os

import numpy as np
from harness import Row, make_parser, report

METHODS, MB = ("SGD", "SAM"), 1e6


def plan_memory(width_mult: float, sam: bool) -> tuple[float, float, float]:
    """The trainable weights, the temporary buffers and the whole step, in MB."""
    import jax
    import keras

    import samkeras
    from samkeras.models.resnet import build_resnet18

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


def compare(width_mult: float) -> list[Row]:
    """A row for each method; nothing is timed, and the ratio is of the peaks."""
    plans = {method: plan_memory(width_mult, method == "SAM") for method in METHODS}
    _, _, sgd_peak = plans["SGD"]
    return [
        {
            "name": f"{method} x{width_mult:g}",
            **dict.fromkeys(("median_s", "low", "high")),
            "ratio_to": f"SGD x{width_mult:g}",
            "ratio": peak / sgd_peak,
            "weights_MB": weights,
            "temporary_MB": temporary,
            "peak_MB": peak,
            "more_MB": peak - sgd_peak,
            "more_in_copies_of_the_weights": (peak - sgd_peak) / weights,
        }
        for method, (weights, temporary, peak) in plans.items()
    ]


def main() -> None:
    parser = make_parser(__file__, __doc__, rounds=None)
    parser.add_argument(
        "width_mult", type=float, nargs="*", default=[0.25, 1.0], metavar="WIDTH_MULT"
    )
    args = parser.parse_args()
    os.environ["KERAS_BACKEND"] = "jax"
    report(args, [row for width_mult in args.width_mult for row in compare(width_mult)])


if __name__ == "__main__":
    main()
