"""How long does a step on batches of several sizes take, beside hand-written JAX?

    KERAS_BACKEND=jax python benchmarks/sequence_step.py
    KERAS_BACKEND=tensorflow python benchmarks/sequence_step.py --workload ogbg_gcn
    python benchmarks/sequence_step.py --width_mult 0.5 --steps 32 --save

The tasks are ud_pos_transformer, sst2_lstm and ogbg_gcn on their sample data, with the
optimizers of their configs and with SAM, rho 0.05. The contenders:

    jax           a jitted step, written by hand in tests/references, in a Python loop
    samkeras      samkeras.SAMModel on the current keras backend, built, compiled and
                  trained as run.py does
    made before   likewise, but that the batches are made before the clock starts: how
                  much longer samkeras takes is what the device waits for the host

All take the same batches of samkeras.data and report loss and accuracy. The first two
are first checked to be the same computation: without dropout, from the same start, the
weights after 3 steps of SAM differ by at most 1e-3 of how far training moved them, and
so do the metrics. Adam divides by sqrt(v) + epsilon: with an epsilon near 0 the first
steps are the signs of the gradients, rounding errors included, so it is 1e-3 in the
check, and the learning rate 0.01, else float32 rounds away much of the embedding's
decay.
Programs are those that samkeras' train step was compiled to; one for each shape of a
batch is the least.
"""

import dataclasses
import functools
import random
import re
from argparse import Namespace

import jax
import jax.numpy as jnp
import numpy as np
from harness import (
    Contender,
    Row,
    demand_same,
    full_precision,
    make_parser,
    names_of,
    report,
    row,
    time_in_turns,
    train_epoch,
)

from tests.references import bilstm, gcn, tagger
from tests.references.layers import Dropout, keep
from tests.references.step import SGD, AdamW, build_step

TOLERANCE = 1e-3
CHECKED_STEPS = 3
# Of run.py: the sample, and a rate that is constant for a transformer too.
OPTIONS = {
    "ud_pos_transformer": "--dataset=morphgnt --lr_schedule=step --learning_rate=5e-4",
    "sst2_lstm": "--dataset=crowdflower",
    "ogbg_gcn": "--dataset=solubility",
}
CHECKED_AT = {"epsilon": 1e-3, "learning_rate": 0.01}


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained."""

    workload: str
    sam: bool
    width_mult: float
    steps: int
    is_check: bool = False  # without dropout, and with CHECKED_AT

    @functools.cached_property
    def config(self):
        from samkeras.experiment.options.parsing import parse_command
        from samkeras.experiment.options.targets import find_target

        options = f"{OPTIONS[self.workload]} --width_mult={self.width_mult} "
        options += f"--sam={self.sam}".lower()
        (config,) = parse_command(find_target(self.workload), options.split()).configs
        return dataclasses.replace(config, **CHECKED_AT) if self.is_check else config

    def batches(self):
        examples = load(self.workload).train
        size = self.config.batch_size
        # Without the smaller batch at the end of an epoch.
        whole = examples.first(len(examples) // size * size)
        return whole.batches(size, 0, steps=self.steps)

    def model(self):
        """The uncompiled model, of the same weights each time."""
        workload, info = self.config.target.load(), load(self.workload).info
        # Of which keras draws the seeds of initializers. After what is imported above,
        # which may draw too.
        random.seed(0)
        model = workload.build(self.config, info)
        for layer in model._flatten_layers():
            if self.is_check and hasattr(layer, "rate"):
                layer.rate = 0.0
        return model


@functools.cache
def load(workload: str):
    """Its sample data."""
    config = Task(workload, False, 1.0, 1).config
    return config.target.load().load(config)


def by_path(variables) -> dict[str, np.ndarray]:
    """Weights by path, without the numbers that keras gives layers without a name."""
    return {re.sub(r"_\d+(?=/)", "", v.path): np.asarray(v.value) for v in variables}


class SamKeras(Contender):
    def __init__(self, task: Task):
        from samkeras.experiment.runs.build import compile_model
        from samkeras.experiment.runs.run import Run

        self.model, self.batches = task.model(), task.batches()
        compile_model(Run(task.config), self.model, task.steps)
        self.start = by_path(self.model.trainable_variables)

    def epoch(self, number):
        self.logs = train_epoch(self.model, self.batches)

    def weights(self):
        return by_path(self.model.trainable_variables)


class MadeBefore(SamKeras):
    def __init__(self, task: Task):
        super().__init__(task)
        self.parts = [*self.batches.take(self.model.steps_per_execution)]

    def epoch(self, number):
        self.model.reset_metrics()
        for part in self.parts:
            logs = self.model.train_on_batches(part, self.batches.specs)
        self.logs = {name: float(value) for name, value in logs.items()}


class Jax(Contender):
    def __init__(self, task: Task):
        model, self.batches = task.model(), task.batches()
        self.start = by_path(model.trainable_variables)
        self.step, self.state = build_step_by_hand(task, self.start)
        self.zeros = jax.tree.map(np.zeros_like, self.state["sums"])

    def epoch(self, number):
        state = {**self.state, "sums": self.zeros}
        for index in range(self.batches.left):
            state = self.step(state, self.batches[index])
        self.state = state
        sums = jax.device_get(state["sums"])
        self.logs = {name: above / below for name, (above, below) in sums.items()}

    def weights(self):
        return {k: np.asarray(v) for k, v in self.state["weights"].items()}


def build_step_by_hand(task: Task, start: dict[str, np.ndarray]):
    """(state, batch) -> state, compiled, and the state to begin with."""
    config, model = task.config, MODELS[task.workload]
    if config.optimizer == "sgd":
        optimizer = SGD(config.learning_rate, config.momentum, config.weight_decay)
    else:
        optimizer = AdamW(
            config.learning_rate,
            config.weight_decay,
            config.beta_1,
            config.beta_2,
            config.epsilon,
        )

    def loss(weights, key, x, y, sample_weight):
        dropout = keep if task.is_check else dropout_by(key)
        value, sums = model.loss(weights, x, y, sample_weight, dropout)
        return value, {"loss": (value * len(y), jnp.float32(len(y))), **sums}

    step = build_step(loss, optimizer, config.rho if task.sam else 0.0)

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(state, batch):
        key = jax.random.fold_in(state["key"], state["count"])
        weights, slots, _, sums = step(state["weights"], state["slots"], key, *batch)
        return {
            "weights": weights,
            "slots": slots,
            "count": state["count"] + 1,
            "key": state["key"],
            "sums": jax.tree.map(jnp.add, state["sums"], sums),
        }

    weights = jax.tree.map(jnp.array, start)
    metrics = ["loss"] + ["accuracy"] * (task.workload != "ogbg_gcn")
    state = {
        "weights": weights,
        "slots": optimizer.start(weights),
        "count": jnp.int32(0),
        "key": jax.random.key(0),
        "sums": {name: (jnp.zeros(()), jnp.zeros(())) for name in metrics},
    }
    return advance, state


def dropout_by(key: jax.Array) -> Dropout:
    """Dropout that draws what it drops from `key`, each time other numbers."""
    keys = iter(jax.random.split(key, 32))

    def dropout(x, rate):
        kept = jax.random.bernoulli(next(keys), 1 - rate, x.shape)
        return jnp.where(kept, x / (1 - rate), 0.0)

    return dropout


MODELS = {"ud_pos_transformer": tagger, "sst2_lstm": bilstm, "ogbg_gcn": gcn}


def parse_arguments() -> Namespace:
    parser = make_parser(__file__, __doc__)
    add = parser.add_argument
    add(
        "--workload",
        type=names_of(OPTIONS),
        default=list(OPTIONS),
        help="which ones, with commas",
    )
    add("--width_mult", type=float, default=0.25, help="multiplier of the widths")
    add("--steps", type=int, default=16, help="steps of each contender in a round")
    return parser.parse_args()


@full_precision()
def find_deviations(workload: str, width_mult: float) -> dict[str, float]:
    """How far samkeras is from hand-written JAX after steps of SAM: the weights,
    ||difference|| / ||how far JAX moved||, and the metrics, the largest difference."""
    task = Task(workload, True, width_mult, CHECKED_STEPS, is_check=True)
    jax_, samkeras_ = Jax(task), SamKeras(task)
    for contender in (jax_, samkeras_):
        contender.epoch(0)
    expected, found = jax_.weights(), samkeras_.weights()

    def norm(some: dict, others: dict) -> float:
        squares = [np.sum(np.square(w - others[k])) for k, w in some.items()]
        return float(np.sqrt(sum(squares)))

    return {
        "weights": norm(found, expected) / norm(expected, jax_.start),
        "metrics": max(abs(samkeras_.logs[k] - float(v)) for k, v in jax_.logs.items()),
    }


def compare(task: Task, rounds: int, deviations: dict[str, float]) -> list[Row]:
    """A row of JAX and those of samkeras."""
    method = task.config.optimizer + "+SAM" * task.sam
    by_hand, ours, before = (
        f"{task.workload} {method} {name}"
        for name in ("jax", "samkeras", "made before")
    )
    contenders = {by_hand: Jax(task), ours: SamKeras(task), before: MadeBefore(task)}
    turns = {name: contender.epoch for name, contender in contenders.items()}
    seconds = time_in_turns(turns, rounds, per=task.steps)
    more = {
        "shapes": count_shapes(task.batches()),
        "programs": contenders[ours].model.count_programs(),
        **{f"{part}_deviation": value for part, value in deviations.items()},
    }
    return [
        row(seconds, by_hand, by_hand),
        row(seconds, ours, by_hand, **more),
        row(seconds, before, ours),
    ]


def count_shapes(batches) -> int:
    labelled = [batches[index] for index in range(batches.left)]
    inputs = [x["nodes"] if isinstance(x, dict) else x for x, *_ in labelled]
    return len({x.shape for x in inputs})


def main() -> None:
    args = parse_arguments()
    deviations, rows = {}, []
    for workload in args.workload:
        found = deviations[workload] = find_deviations(workload, args.width_mult)
        demand_same({f"{workload}'s {part}": d for part, d in found.items()}, TOLERANCE)
    for workload in args.workload:
        for sam in (False, True):
            task = Task(workload, sam, args.width_mult, args.steps)
            rows += compare(task, args.rounds, deviations[workload])
    report(args, rows)


if __name__ == "__main__":
    main()
