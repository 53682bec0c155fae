"""How long does an epoch of SGD and SAM take, beside other ways to write them?

    KERAS_BACKEND=jax python benchmarks/step_time.py
    KERAS_BACKEND=tensorflow python benchmarks/step_time.py --width_mult 1,10
    python benchmarks/step_time.py --torch_python ~/torch/bin/python --save

The task is LeNet-300-100 on random 28 x 28 images: momentum 0.9, learning rate 0.01,
coupled L2 1e-4, rho 0.05, batch 128. The contenders:

    scan          a whole epoch in one jax.lax.scan of a step written by hand, that of
                  tests/references
    samkeras      samkeras.SAMModel on the current keras backend, as run.py trains it
    plain keras   keras.Model.fit; for SAM, the usual train_step of one's own
    optax + flax  optax.contrib.sam, a jitted step in a Python loop
    pytorch       pytorch_optimizer's SAM and torch.optim.SGD

Those whose packages are missing are left out; --torch_python runs the last one in
another interpreter. Each is first checked against the first of the list: the weights
after 12 steps, from the same start on the same batches. Rounding alone puts some unit
of a wide network on the other side of its ReLU after about twice as many.
"""

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
from harness import (
    Contender,
    Row,
    Seconds,
    Worker,
    demand_same,
    installed,
    make_parser,
    names_of,
    numbers,
    ratio,
    report,
    row,
    train_each,
    train_epoch,
    train_in_turns,
)

REQUIRED = {
    "scan": ("jax",),
    "samkeras": ("keras",),
    "plain keras": ("keras",),
    "optax + flax": ("optax", "flax"),
    "pytorch": ("torch", "pytorch_optimizer"),
}
TOLERANCE, CHECKED_STEPS = 1e-4, 12
LEARNING_RATE, MOMENTUM, L2, RHO, BATCH = 0.01, 0.9, 1e-4, 0.05, 128


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained: everything a contender needs, small enough to send."""

    sam: bool
    width_mult: float
    examples: int
    steps_per_execution: int
    seed: int = 0

    @property
    def rho(self) -> float:
        return RHO if self.sam else 0.0

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(self.seed)
        images = rng.integers(0, 256, (self.examples, 28, 28), np.uint8)
        return images, rng.integers(0, 10, self.examples, np.int32)

    def floats(self) -> tuple[np.ndarray, np.ndarray]:
        images, labels = self.data()
        return images.reshape(-1, 784).astype("float32") / 255, labels

    def sizes(self) -> list[int]:
        return [784, round(300 * self.width_mult), round(100 * self.width_mult), 10]

    def initial_weights(self) -> list[np.ndarray]:
        rng = np.random.default_rng(self.seed + 1)
        weights = []
        for n_in, n_out in zip(self.sizes()[:-1], self.sizes()[1:], strict=True):
            kernel = rng.standard_normal((n_in, n_out)) / np.sqrt(n_in)
            weights += [kernel.astype("float32"), np.zeros(n_out, "float32")]
        return weights

    def order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.examples)


def keras_layers(task: Task, rescale: bool, l2: float):
    """Input and output of the network in keras."""
    import keras
    from keras import layers

    regularizer = {}
    if l2:
        term = keras.regularizers.L2(l2 / 2)
        regularizer = {"kernel_regularizer": term, "bias_regularizer": term}
    inputs = keras.Input((28, 28), dtype="uint8" if rescale else "float32")
    x = layers.Rescaling(1 / 255)(inputs) if rescale else inputs
    x = layers.Flatten()(x)
    for size in task.sizes()[1:-1]:
        x = layers.Dense(size, "relu", **regularizer)(x)
    return inputs, layers.Dense(task.sizes()[-1], **regularizer)(x)


class SamKeras(Contender):
    jit_compile: bool | str = True  # as run.py has it; keras leaves it off on CPU

    def __init__(self, task: Task):
        import keras

        import samkeras
        from samkeras.data.examples import ArrayExamples

        examples = ArrayExamples(*task.data(), is_resident=True)  # as run.py has it
        self.batches = examples.batches(BATCH, task.seed)
        self.model = self.build_model(task)
        self.model.compile(
            samkeras.SGD(LEARNING_RATE, momentum=MOMENTUM),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            method=self.build_method(task),
            l2=L2,
            steps_per_execution=task.steps_per_execution,
            jit_compile=self.jit_compile,
        )

    def build_method(self, task: Task):
        import samkeras

        return samkeras.SAM(RHO) if task.sam else None

    def build_model(self, task: Task):
        """The uncompiled model with the initial weights."""
        import samkeras

        model = samkeras.SAMModel(*keras_layers(task, rescale=True, l2=0))
        model.set_weights(task.initial_weights())
        return model

    def epoch(self, number):
        self.batches.start_epoch(number)
        self.logs = train_epoch(self.model, self.batches)

    def weights(self):
        return self.model.get_weights()


class PlainKeras(Contender):
    def __init__(self, task: Task):
        import keras

        self.task = task
        x, self.y = task.floats()
        self.x = x.reshape(-1, 28, 28)
        model_class = usual_sam_model() if task.sam else keras.Model
        # As a regularizer the decay would be part of epsilon too.
        self.model = model_class(
            *keras_layers(task, rescale=False, l2=0 if task.sam else L2)
        )
        self.model.compile(
            keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        self.model.set_weights(task.initial_weights())

    def epoch(self, number):
        self.model.fit(self.x, self.y, BATCH, verbose=0)

    def ordered_epoch(self, number):
        order = self.task.order(number)
        x, y = self.x[order], self.y[order]
        self.model.fit(x, y, BATCH, shuffle=False, verbose=0)

    def weights(self):
        return self.model.get_weights()


def usual_sam_model():
    """SAM in a train_step for the current backend, as keras' guides would have it."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        class SAMModel(keras.Model):
            def gradients(self, x, y):
                with tf.GradientTape() as tape:
                    y_pred = self(x, training=True)
                    loss = self.compute_loss(x, y, y_pred)
                return loss, y_pred, tape.gradient(loss, self.trainable_variables)

            def train_step(self, data):
                x, y = data
                loss, y_pred, gradients = self.gradients(x, y)
                scale = RHO / (tf.linalg.global_norm(gradients) + 1e-12)
                epsilon = [g * scale for g in gradients]
                for w, e in zip(self.trainable_variables, epsilon, strict=True):
                    w.assign_add(e)
                _, _, gradients = self.gradients(x, y)
                for w, e in zip(self.trainable_variables, epsilon, strict=True):
                    w.assign_sub(e)
                decayed = [
                    g + L2 * w
                    for g, w in zip(gradients, self.trainable_variables, strict=True)
                ]
                self.optimizer.apply(decayed, self.trainable_variables)
                self._loss_tracker.update_state(loss)
                return self.compute_metrics(x, y, y_pred)

        return SAMModel

    import jax
    import optax

    class SAMModel(keras.Model):
        def train_step(self, state, data):
            weights, non_trainable, optimizer_state, metrics = state
            x, y = data
            gradients_of = partial(
                jax.value_and_grad(self.compute_loss_and_updates, has_aux=True),
                non_trainable_variables=non_trainable,
                metrics_variables=metrics,
                x=x,
                y=y,
                sample_weight=None,
                training=True,
                optimizer_variables=optimizer_state,
            )
            (_, (loss, y_pred, non_trainable, metrics)), gradients = gradients_of(
                weights
            )
            scale = RHO / (optax.global_norm(gradients) + 1e-12)
            _, gradients = gradients_of(
                [w + g * scale for w, g in zip(weights, gradients, strict=True)]
            )
            decayed = [g + L2 * w for g, w in zip(gradients, weights, strict=True)]
            weights, optimizer_state = self.optimizer.stateless_apply(
                optimizer_state, decayed, weights
            )
            logs, metrics = self._update_metrics_variables(
                metrics, loss, x, y, y_pred, None
            )
            return logs, (weights, non_trainable, optimizer_state, metrics)

    return SAMModel


class Scan(Contender):
    def __init__(self, task: Task):
        import jax
        import jax.numpy as jnp

        from tests.references import mlp
        from tests.references.step import SGD, build_step

        optimizer = SGD(LEARNING_RATE, MOMENTUM, L2)
        step = build_step(mlp.loss, optimizer, task.rho)

        def advance(state, batch):
            *state, loss, _ = step(*state, *batch)
            return tuple(state), loss

        @partial(jax.jit, donate_argnums=0)
        def epoch(state, x, y, order):
            x, y = x[order], y[order]
            batches = (x.reshape(-1, BATCH, x.shape[1]), y.reshape(-1, BATCH))
            state, losses = jax.lax.scan(advance, state, batches)
            return state, jnp.mean(losses)

        self.task, self.run = task, epoch
        self.x, self.y = map(jnp.asarray, task.floats())
        weights = [jnp.array(w) for w in task.initial_weights()]
        self.state = (weights, optimizer.start(weights))

    def epoch(self, number):
        self.state, loss = self.run(self.state, self.x, self.y, self.task.order(number))
        loss.block_until_ready()

    def weights(self):
        return [np.asarray(w) for w in self.state[0]]


class OptaxFlax(Contender):
    def __init__(self, task: Task):
        import flax.linen as nn
        import jax
        import jax.numpy as jnp
        import optax

        class MLP(nn.Module):
            @nn.compact
            def __call__(self, x):
                for size in task.sizes()[1:-1]:
                    x = nn.relu(nn.Dense(size)(x))
                return nn.Dense(task.sizes()[-1])(x)

        model = MLP()
        optimizer = optax.chain(
            optax.add_decayed_weights(L2), optax.sgd(LEARNING_RATE, MOMENTUM)
        )
        if task.sam:
            ascent = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
            optimizer = optax.contrib.sam(optimizer, ascent, opaque_mode=True)
        optimizer = optax.with_extra_args_support(optimizer)

        def loss(params, x, y):
            logits = model.apply({"params": params}, x)
            losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, y)
            return losses.mean()

        @partial(jax.jit, donate_argnums=(0, 1))
        def step(params, state, x, y):
            value, gradients = jax.value_and_grad(loss)(params, x, y)
            updates, state = optimizer.update(
                gradients, state, params, grad_fn=lambda p, _: jax.grad(loss)(p, x, y)
            )
            return optax.apply_updates(params, updates), state, value

        weights = [jnp.array(w) for w in task.initial_weights()]
        self.params = {
            f"Dense_{i}": {"kernel": kernel, "bias": bias}
            for i, (kernel, bias) in enumerate(
                zip(weights[::2], weights[1::2], strict=True)
            )
        }
        self.state = optimizer.init(self.params)
        self.task, self.step, (self.x, self.y) = task, step, task.floats()

    def epoch(self, number):
        for rows in self.task.order(number).reshape(-1, BATCH):
            self.params, self.state, loss = self.step(
                self.params, self.state, self.x[rows], self.y[rows]
            )
        loss.block_until_ready()

    def weights(self):
        layers = [self.params[name] for name in sorted(self.params)]
        return [np.asarray(w) for d in layers for w in (d["kernel"], d["bias"])]


class Torch(Contender):
    def __init__(self, task: Task):
        import torch
        from pytorch_optimizer import SAM

        self.model = self.build_model(task)
        options = {"lr": LEARNING_RATE, "momentum": MOMENTUM, "weight_decay": L2}
        parameters = self.model.parameters()
        if task.sam:
            self.optimizer = SAM(parameters, torch.optim.SGD, rho=RHO, **options)
        else:
            self.optimizer = torch.optim.SGD(parameters, **options)
        self.task, (x, y) = task, task.floats()
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y).long()

    def build_model(self, task: Task):
        """The model with the initial weights."""
        import torch
        from torch import nn

        sizes, weights = task.sizes(), task.initial_weights()
        layers = []
        for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            layer = nn.Linear(n_in, n_out)
            layer.weight.data = torch.from_numpy(weights[2 * i].T.copy())
            layer.bias.data = torch.from_numpy(weights[2 * i + 1])
            layers += [layer, nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def epoch(self, number):
        import torch

        order = torch.from_numpy(self.task.order(number))
        for rows in order.reshape(-1, BATCH):
            x, y = self.x[rows], self.y[rows]

            def closure(x=x, y=y):
                self.optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(self.model(x), y)
                loss.backward()
                return loss

            closure()
            self.optimizer.step(closure if self.task.sam else None)

    def weights(self):
        return [p.detach().numpy().T for p in self.model.parameters()]


CONTENDERS = {
    "samkeras": SamKeras,
    "scan": Scan,
    "plain keras": PlainKeras,
    "optax + flax": OptaxFlax,
    "pytorch": Torch,
}


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__file__, __doc__)
    add = parser.add_argument
    add("--examples", type=int, default=60_000, help="number of images")
    widths = "multipliers of the widths, with commas"
    add("--width_mult", type=numbers, default=[1.0], help=widths)
    add("--steps_per_execution", type=int, default=36, help="of samkeras")
    add(
        "--contenders",
        type=names_of(REQUIRED),
        default=list(REQUIRED),
        help="which ones, with commas",
    )
    add("--torch_python", default=sys.executable, help="an interpreter with PyTorch")
    return parser.parse_args()


def start_each(names: list[str], task: Task, python: str) -> dict[str, Callable]:
    """How each contender is started; PyTorch's lives in an interpreter of its own."""
    return {
        name: partial(Worker, python, "step_time", name, task)
        if name == "pytorch"
        else partial(CONTENDERS[name], task)
        for name in names
    }


def largest_deviations(weights: dict[str, list]) -> dict[str, float]:
    """Largest difference of any weight from the first contender's."""
    reference = next(iter(weights.values()))
    return {
        name: max(float(abs(a - b).max()) for a, b in zip(ours, reference, strict=True))
        for name, ours in weights.items()
    }


def compare(names: list[str], width_mult: float, args: argparse.Namespace) -> list[Row]:
    """A row for each contender and method."""
    steps, execution = args.examples // BATCH, args.steps_per_execution
    starts, deviations = {}, {}
    for method in ("SGD", "SAM"):
        task = Task(method == "SAM", width_mult, steps * BATCH, execution)
        checked = min(CHECKED_STEPS, execution, steps) * BATCH
        short = dataclasses.replace(task, examples=checked)
        weights = train_each(start_each(names, short, args.torch_python))
        found = largest_deviations(weights)
        for name, start in start_each(names, task, args.torch_python).items():
            starts[label(name, method, width_mult)] = start
            deviations[label(name, method, width_mult)] = found[name]
    demand_same(deviations, TOLERANCE)
    seconds = train_in_turns(starts, args.rounds)
    return method_rows(seconds, names, width_mult, deviations)


def label(name: str, method: str, width_mult: float) -> str:
    return f"{name} {method} x{width_mult:g}"


def method_rows(
    seconds: Seconds, names: list[str], width_mult: float, deviations: dict[str, float]
) -> list[Row]:
    """Each contender beside the first and beside itself with SGD."""
    rows = []
    for name, method in itertools.product(names, ("SGD", "SAM")):
        this, first = (label(n, method, width_mult) for n in (name, names[0]))
        to_sgd = ratio(seconds, this, label(name, "SGD", width_mult))
        more = {"ratio_to_SGD": to_sgd, "deviation": deviations[this]}
        rows.append(row(seconds, this, first, **more))
    return rows


def main() -> None:
    args = parse_arguments()
    here, there = installed(sys.executable), installed(args.torch_python)
    names = [
        name
        for name in args.contenders
        if set(REQUIRED[name]) <= set(there if name == "pytorch" else here)
    ]
    rows = []
    for width_mult in args.width_mult:
        rows += compare(names, width_mult, args)
    report(args, rows, args.torch_python)


if __name__ == "__main__":
    main()
