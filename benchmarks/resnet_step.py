"""How long does a step of ResNet-18 take with SGD and SAM, beside JAX and PyTorch?

    KERAS_BACKEND=jax python benchmarks/resnet_step.py
    KERAS_BACKEND=tensorflow python benchmarks/resnet_step.py --width_mult 0.25
    python benchmarks/resnet_step.py --torch_python ~/torch/bin/python --save

The task is ResNet-18 for CIFAR-10 on random images, batch 128: momentum 0.9, learning
rate 0.01, coupled L2 1e-4, rho 0.05, with 16 and 64 filters in the first stage. The
contenders:

    jax           a jitted step, written by hand in tests/references
    samkeras      samkeras.SAMModel.fit on the current keras backend
    pytorch       pytorch_optimizer's SAM and torch.optim.SGD, channels last; only with
                  --torch_python

Each is first checked against hand-written JAX: how far the weights are from its after
two steps, from the same start on the same batches, in parts of how far training went.
The check starts from offsets of 8, where no ReLU is near its kink: a rounding error
that takes one over it changes the gradient by a thousandth. From offsets of 0, those of
the timed steps, float32 programs differ by some percent; they are checked to 20%.
"""

import argparse
import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np
from harness import (
    Contender,
    Row,
    Worker,
    demand_same,
    make_parser,
    numbers,
    report,
    train_each,
    train_in_turns,
)
from step_time import BATCH, L2, LEARNING_RATE, MOMENTUM, label, method_rows
from step_time import SamKeras as DenseSamKeras
from step_time import Task as DenseTask
from step_time import Torch as DenseTorch

TOLERANCES = {8.0: 1e-4, 0.0: 0.2}  # by the offsets at the start
MEANS, DEVIATIONS = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


@dataclasses.dataclass(frozen=True)
class Task(DenseTask):
    """As for dense networks, on images of 32 x 32 x 3."""

    offset: float = 0.0  # that normalizations start with

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(self.seed)
        images = rng.integers(0, 256, (self.examples, 32, 32, 3), np.uint8)
        return images, rng.integers(0, 10, self.examples, np.int32)

    def floats(self) -> tuple[np.ndarray, np.ndarray]:
        images, labels = self.data()
        floats = (images.astype("float32") / 255 - MEANS) / DEVIATIONS
        return floats.astype("float32"), labels

    def blocks(self) -> list[tuple[str, int, int, int]]:
        """(name, filters before, filters, strides) of the residual blocks."""
        first = filters = round(64 * self.width_mult)
        blocks = []
        for number in range(8):
            stage, place = divmod(number, 2)
            strides = 2 if stage > 0 and place == 0 else 1
            name = f"stage{stage + 1}_block{place + 1}"
            blocks.append((name, filters, first * 2**stage, strides))
            filters = first * 2**stage
        return blocks

    def initial_weights(self) -> dict[str, np.ndarray]:
        """By the names that they have in samkeras' model."""
        first = round(64 * self.width_mult)
        kernels = {"stem": (3, 3, 3, first)}
        for name, before, filters, strides in self.blocks():
            kernels[f"{name}_conv1"] = (3, 3, before, filters)
            kernels[f"{name}_conv2"] = (3, 3, filters, filters)
            if strides == 2:
                kernels[f"{name}_projection"] = (1, 1, before, filters)
        rng = np.random.default_rng(self.seed + 1)
        weights = {}
        for name, shape in kernels.items():
            kernel = rng.standard_normal(shape) / np.sqrt(np.prod(shape[:3]))
            weights[f"{name}/kernel"] = kernel.astype("float32")
            weights[f"{norm_of(name)}/gamma"] = np.ones(shape[3], "float32")
            weights[f"{norm_of(name)}/beta"] = np.full(shape[3], self.offset, "float32")
        kernel = rng.standard_normal((8 * first, 10)) / np.sqrt(8 * first)
        weights["outputs/kernel"] = kernel.astype("float32")
        weights["outputs/bias"] = np.zeros(10, "float32")
        return weights


def norm_of(convolution: str) -> str:
    """The name of the normalization that follows a convolution."""
    if "_conv" in convolution:
        return convolution.replace("conv", "norm")
    return f"{convolution}_norm"


def in_order(weights: dict) -> list[np.ndarray]:
    return [np.asarray(weights[name]) for name in sorted(weights)]


class SamKeras(DenseSamKeras):
    jit_compile = "auto"  # as run.py has it for convolutions

    def build_model(self, task):
        from samkeras.models.resnet import build_resnet18

        model = build_resnet18((32, 32, 3), 10, task.width_mult)
        weights = task.initial_weights()
        for variable in model.trainable_variables:
            variable.assign(weights[variable.path])
        return model

    def weights(self):
        variables = self.model.trainable_variables
        return in_order({v.path: v.value for v in variables})


class Jax(Contender):
    """A jitted step, written by hand, in a Python loop."""

    def __init__(self, task: Task):
        import jax
        import jax.numpy as jnp

        from tests.references import resnet18
        from tests.references.step import SGD, build_step

        optimizer = SGD(LEARNING_RATE, MOMENTUM, L2)
        step = build_step(resnet18.loss, optimizer, task.rho)

        @partial(jax.jit, donate_argnums=0)
        def advance(state, x, y):
            *state, loss, (averages, accuracy) = step(*state, x, y)
            return (*state, averages), loss, accuracy

        weights = jax.tree.map(jnp.array, task.initial_weights())
        self.state = (
            weights,
            optimizer.start(weights),
            resnet18.initial_averages(weights),
        )
        self.task, self.step, (self.x, self.y) = task, advance, task.data()

    def epoch(self, number):
        for rows in self.task.order(number).reshape(-1, BATCH):
            self.state, loss, _ = self.step(self.state, self.x[rows], self.y[rows])
        loss.block_until_ready()

    def weights(self):
        return in_order(self.state[0])


class Torch(DenseTorch):
    """Channels last."""

    def __init__(self, task):
        import torch

        super().__init__(task)
        images = self.x.permute(0, 3, 1, 2)
        self.x = images.contiguous(memory_format=torch.channels_last)

    def build_model(self, task):
        import torch
        from torch import nn
        from torch.nn.functional import relu

        start = task.initial_weights()

        class ResNet(nn.Module):
            def __init__(self):
                super().__init__()
                for name, weight in start.items():
                    layer, kind = name.split("/")
                    if kind == "kernel" and weight.ndim == 4:
                        size, _, n_in, n_out = weight.shape
                        strides = 1
                        if layer.endswith("block1_conv1") and n_in != n_out:
                            strides = 2
                        convolution = nn.Conv2d(
                            n_in, n_out, size, strides, size // 2, bias=False
                        )
                        kernel = torch.from_numpy(weight.copy())
                        convolution.weight.data = kernel.permute(3, 2, 0, 1)
                        self.add_module(layer, convolution)
                        norm = nn.BatchNorm2d(n_out, eps=1e-5, momentum=0.1)
                        nn.init.constant_(norm.bias, task.offset)
                        self.add_module(norm_of(layer), norm)
                self.outputs = nn.Linear(*start["outputs/kernel"].shape)
                kernel = torch.from_numpy(start["outputs/kernel"].T.copy())
                self.outputs.weight.data = kernel
                nn.init.zeros_(self.outputs.bias)

            def convolve_and_normalize(self, name, x):
                convolved = self.get_submodule(name)(x)
                return self.get_submodule(norm_of(name))(convolved)

            def forward(self, x):
                x = relu(self.convolve_and_normalize("stem", x))
                for name, _, _, strides in task.blocks():
                    z = relu(self.convolve_and_normalize(f"{name}_conv1", x))
                    z = self.convolve_and_normalize(f"{name}_conv2", z)
                    if strides == 2:
                        x = x[:, :, ::2, ::2]
                        x = self.convolve_and_normalize(f"{name}_projection", x)
                    x = relu(x + z)
                return self.outputs(x.mean((2, 3)))

        return ResNet().to(memory_format=torch.channels_last)

    def weights(self):
        weights = {}
        for path, parameter in self.model.named_parameters():
            name, kind = path.split(".")
            array = parameter.detach().numpy()
            if "norm" in name:
                kind = {"weight": "gamma", "bias": "beta"}[kind]
            elif kind == "weight":
                kind, array = "kernel", array.T
                if array.ndim == 4:  # [width, height, in, out]
                    array = array.swapaxes(0, 1)
            weights[f"{name}/{kind}"] = array
        return in_order(weights)


CONTENDERS = {"jax": Jax, "samkeras": SamKeras, "pytorch": Torch}


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__file__, __doc__)
    add = parser.add_argument
    widths = "multipliers of the widths, with commas"
    add("--width_mult", type=numbers, default=[0.25, 1.0], help=widths)
    add("--steps", type=int, default=2, help="steps of each contender in a round")
    add("--torch_python", help="an interpreter with PyTorch; default: leave it out")
    return parser.parse_args()


def start_each(task: Task, python: str | None) -> dict[str, Callable]:
    """How each contender is started."""
    starts = {name: partial(CONTENDERS[name], task) for name in ("jax", "samkeras")}
    if python:
        starts["pytorch"] = partial(Worker, python, "resnet_step", "pytorch", task)
    return starts


def find_deviations(task: Task, python: str | None) -> dict[str, float]:
    """||weights - the first contender's|| / ||those - the start|| after two steps."""

    def flat(weights: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.ravel(w) for w in weights]).astype("float64")

    short = dataclasses.replace(task, examples=2 * BATCH)
    after = {n: flat(w) for n, w in train_each(start_each(short, python)).items()}
    reference = after["jax"]
    moved = np.linalg.norm(reference - flat(in_order(task.initial_weights())))
    return {n: float(np.linalg.norm(a - reference) / moved) for n, a in after.items()}


def compare(width_mult: float, args: argparse.Namespace) -> list[Row]:
    """A row for each contender and method."""
    starts, deviations = {}, {}
    for method in ("SGD", "SAM"):
        task = Task(method == "SAM", width_mult, args.steps * BATCH, 1)
        for offset, tolerance in TOLERANCES.items():
            check = dataclasses.replace(task, offset=offset)
            found = {
                label(name, method, width_mult): deviation
                for name, deviation in find_deviations(check, args.torch_python).items()
            }
            demand_same(found, tolerance)
            deviations = found | deviations  # the first check's
        for name, start in start_each(task, args.torch_python).items():
            starts[label(name, method, width_mult)] = start
    seconds = train_in_turns(starts, args.rounds, per=args.steps)
    names = list(start_each(task, args.torch_python))
    return method_rows(seconds, names, width_mult, deviations)


def main() -> None:
    args = parse_arguments()
    rows = []
    for width_mult in args.width_mult:
        rows += compare(width_mult, args)
    report(args, rows, args.torch_python)


if __name__ == "__main__":
    main()
