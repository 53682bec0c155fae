"""What does a Hessian product cost, beside a gradient, and what does Lanczos keep?

    KERAS_BACKEND=jax python benchmarks/curvature.py --save curvature_jax_cpu
    KERAS_BACKEND=tensorflow python benchmarks/curvature.py

A gradient and a Hessian-vector product of the mean loss over random images, as
samkeras.analysis measures it: LeNet-300-100 on 28 x 28, ResNet-18 with 16 filters on
32 x 32. Memory is what NumPy holds at its fullest while Lanczos takes --basis products,
beside the basis itself: as many float32 vectors of the weights' number.
"""

import tracemalloc
from typing import Any

import numpy as np
from harness import Row, make_parser, names_of, report, row, time_in_turns

SHAPES = {"lenet": (28, 28, 1), "resnet": (32, 32, 3)}


def build(name: str) -> Any:
    import keras

    from samkeras.models.mlp import build_mlp
    from samkeras.models.resnet import build_resnet18

    if name == "lenet":
        model = build_mlp(SHAPES[name], 10, (300, 100), input_scale=1 / 255)
    else:
        model = build_resnet18(SHAPES[name], 10, 0.25)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss)
    return model


def measure_memory(model: Any, data: Any, products: int) -> dict[str, float]:
    """The most that NumPy holds, in MB, and in vectors of a Krylov basis."""
    from samkeras.analysis import top_eigenvalues

    tracemalloc.start()
    top_eigenvalues(model, data, k=1, max_products=products, tolerance=1e-12)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    basis = products * data.size * 4
    return {"peak_MB": peak / 1e6, "basis_MB": basis / 1e6, "of_basis": peak / basis}


def compare(name: str, examples: int, rounds: int, products: int) -> list[Row]:
    from samkeras.analysis import DataLoss

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (examples, *SHAPES[name]), np.uint8)
    model = build(name)
    data = DataLoss(model, (x, rng.integers(0, 10, examples, np.int32)))
    vector = rng.standard_normal(data.size).astype("float32")
    gradient, product = f"{name} gradient", f"{name} product"
    turns = {
        gradient: lambda _: data.gradient(),
        product: lambda _: data.product(vector),
    }
    seconds = time_in_turns(turns, rounds)
    memory = measure_memory(model, data, products)
    return [row(seconds, gradient, gradient), row(seconds, product, gradient, **memory)]


def main() -> None:
    parser = make_parser(__file__, __doc__)
    add = parser.add_argument
    add("--models", type=names_of(SHAPES), default=[*SHAPES], help="which networks")
    add("--examples", type=int, default=1024, help="number of images")
    add("--basis", type=int, default=30, help="products of Lanczos")
    args = parser.parse_args()
    rows = [
        line
        for name in args.models
        for line in compare(name, args.examples, args.rounds, args.basis)
    ]
    report(args, rows)


if __name__ == "__main__":
    main()
