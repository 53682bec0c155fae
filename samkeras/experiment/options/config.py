"""What a run is: its options, their defaults and their ranges."""

import dataclasses
import hashlib
import json
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from jsonargparse.typing import (
    ClosedUnitInterval,
    OpenUnitInterval,
    restricted_number_type,
)

from samkeras.errors import InputError
from samkeras.experiment.options.methods import CLASSES, OPTIONS, count_passes
from samkeras.experiment.options.strict_yaml import read_yaml
from samkeras.experiment.options.targets import ROOT, find_workload

# What float32 holds, in which models are trained: larger numbers would be infinite
# there, smaller ones zero, and those nearer to 1 would be 1.
_TINY, _HUGE, _BELOW_ONE = 1.1754943508222875e-38, 3.4028234663852886e38, 1 - 2**-24
_FINITE = ("<=", _HUGE)
PositiveFloat = restricted_number_type("Positive", float, [(">=", _TINY), _FINITE])
NonNegativeFloat = restricted_number_type("NonNegative", float, [(">=", 0), _FINITE])
Norm = restricted_number_type("Norm", float, [(">", 1), _FINITE])
Fraction = restricted_number_type("Fraction", float, [(">=", 0), ("<=", _BELOW_ONE)])
# Counts are int32 where they are computed with; seeds are what generators take.
PositiveInt = restricted_number_type("Count", int, [(">=", 1), ("<", 2**31)])
NonNegativeInt = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])
# Keras goes through a model's layers by recursion, which ends at about a thousand;
# steps of ascent are compiled one by one.
SmallInt = restricted_number_type("Small", int, [(">=", 1), ("<=", 100)])


@dataclass(frozen=True, kw_only=True)
class Config:
    """What every run has. Each field is an option of the command line under its own
    name."""

    workload: str
    """name of the workload, set by the target"""

    width_mult: PositiveFloat = 1.0
    """width of the model, as a multiple of the standard model's"""
    sam: bool = False
    """train with sharpness-aware minimization"""
    method: Literal[*CLASSES] = "sam"
    """with sam: the rule for the perturbation, sam's or a variant's"""
    rho: NonNegativeFloat = 0.05
    """with sam: radius of the perturbation, of asam 0.5 unless it is given"""
    m_sharpness: PositiveInt | None = None
    """with sam: examples that share a perturbation (default: the whole batch)"""
    p: Norm | Literal["inf"] = 2.0  # a word, as JSON has no infinity
    """with method sam or asam: norm of the perturbation, of asam 2 or inf"""
    ascent_steps: SmallInt = 1
    """with method sam: steps of ascent, each costs a gradient"""
    eta: NonNegativeFloat = 0.01
    """with method asam: what is added to the absolute values of the weights"""
    sigma: NonNegativeFloat = 1.0
    """with method fsam: how much of the gradients' running mean is taken off"""
    ema_decay: Fraction = 0.9
    """with method fsam: decay of the gradients' running mean"""
    seed: NonNegativeInt = 0
    """seed of initialization, data order and every other draw"""

    pruner: Literal["none", "snip", "random", "magnitude"] = "none"
    """how to choose the weights that stay zero from the start"""
    sparsity: Fraction | None = None
    """with a pruner: fraction of the kernels' weights to prune"""
    match_width: PositiveFloat | None = None
    """with a pruner: prune to the size of the dense model of this width_mult"""
    allow_empty_layers: bool = False
    """with a pruner: let a layer lose all its weights"""

    batch_size: PositiveInt = 128
    """examples per step"""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """base optimizer"""
    momentum: ClosedUnitInterval = 0.0
    """momentum of sgd"""
    beta_1: Fraction = 0.9
    """decay of adam's and adamw's mean of the gradients"""
    beta_2: Fraction = 0.999
    """decay of adam's and adamw's mean of their squares"""
    epsilon: PositiveFloat = 1e-8
    """adam's and adamw's number that keeps them from dividing by zero"""
    clip_norm: PositiveFloat | None = None
    """scale the gradients that the optimizer takes down to this norm"""
    learning_rate: NonNegativeFloat = 0.1
    """initial learning rate, after the warm-up"""
    lr_schedule: Literal["step", "cosine", "linear", "rsqrt"] = "step"
    """how the learning rate falls"""
    warmup_steps: NonNegativeInt = 0
    """with cosine and rsqrt: steps in which the learning rate rises from 0"""
    lr_milestones: tuple[OpenUnitInterval, ...] = ()
    """with step: fractions of the epochs after which the learning rate drops"""
    lr_decay: PositiveFloat = 0.1
    """with step: factor of each drop"""
    weight_decay: NonNegativeFloat = 0.0
    """coupled L2 with sgd and adam, decoupled with adamw"""

    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """keras dtype policy"""
    steps_per_execution: PositiveInt = 32
    """steps in one compiled call"""

    experiment: str | None = None
    """MLflow experiment (default: the workload's name)"""
    tracking_uri: str | None = None
    """MLflow store or server (default: $MLFLOW_TRACKING_URI, else mlflow/mlflow.db)"""
    run_dir: str = "runs"
    """directory of the runs' files"""
    workers: PositiveInt = 1
    """processes that train runs at the same time, and share the cores and GPUs"""
    ray: str | None = None
    """train the runs on the Ray cluster at this address: HOST:PORT or auto"""
    cpus_per_run: NonNegativeFloat = 1.0
    """with ray: CPUs that a run needs"""
    gpus_per_run: NonNegativeFloat = 0.0
    """with ray: GPUs that a run needs"""
    tpus_per_run: NonNegativeFloat = 0.0
    """with ray: TPU chips that a run needs"""
    rerun: bool = False
    """train again what is already finished"""
    dry_run: bool = False
    """say what would run, and stop"""
    verbose: Literal[0, 1, 2] = 1
    """0: the table alone; 1: progress; 2: a line an epoch"""

    # Options of some workloads, without effect in the others.
    alpha: ClassVar[float | None] = None
    dropout: ClassVar[float | None] = None
    label_noise: ClassVar[float] = 0.0

    @property
    def is_pruned(self) -> bool:
        """Whether any weight is pruned."""
        is_dense = self.match_width == self.width_mult or self.sparsity == 0
        return self.pruner != "none" and not is_dense

    @property
    def unused(self) -> tuple[str, ...]:
        """Fields without effect on the result."""
        method = self.method if self.sam else None
        names = [name for name, methods in OPTIONS.items() if method not in methods]
        if self.optimizer == "sgd":
            names += ["beta_1", "beta_2", "epsilon"]
        else:
            names.append("momentum")
        if self.lr_schedule not in ("cosine", "rsqrt"):
            names.append("warmup_steps")
        if self.lr_schedule != "step":
            names.append("lr_milestones")
        if self.lr_schedule != "step" or not self.lr_milestones:
            names.append("lr_decay")
        return tuple(names)


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(Config):
    """A run that learns from examples."""

    depth: SmallInt | None = None
    """hidden layers, or blocks a stage (default: the standard model's)"""
    dropout: Fraction | None = None
    """rate of dropout, in the models that have it"""

    dataset: str = ""
    """data set: a TFDS name, an .npz file or the workload's sample"""
    data_dir: str | None = None
    """directory of prepared TFDS data sets (default: TFDS's own)"""
    train_examples: PositiveInt | None = None
    """train on the first N examples"""
    validation_examples: PositiveInt | None = None
    """validate on the first N examples"""
    max_length: PositiveInt | None = None
    """cut sentences to N words"""
    tags: Literal["xpos", "upos"] = "xpos"
    """tagger: tags of the treebank's language, or those that all treebanks share"""
    word_dropout: NonNegativeFloat = 0.0
    """tagger: words are unknown in training with probability X / (X + their count)"""
    image_size: PositiveInt | None = None
    """height and width that images are brought to"""
    augment: bool = False
    """train on random crops of the images, mirrored or not"""
    label_noise: ClosedUnitInterval = 0.0
    """fraction of training labels replaced by another class"""
    holdout: Fraction = 0.0
    """validate on this fraction of the training set, not on the test split"""

    epochs: PositiveInt = 1
    """passes over the training set"""
    steps: PositiveInt | None = None
    """train by steps, not by epochs: this many"""
    eval_every: PositiveInt = 1000
    """with steps: validate every N steps, which then count as an epoch"""
    epochs_mult: PositiveFloat = 1.0
    """factor of epochs and steps; the learning rate's schedule stretches with them"""

    alpha: PositiveFloat | None = None
    """train the centred model scaled by alpha with a squared loss: linear if large"""

    @property
    def total_epochs(self) -> int:
        """Passes over the training set, or rounds of steps that end with a validation,
        with their factor applied."""
        rounds = self.steps / self.steps_a_round if self.steps else self.epochs
        # No more than are refused, where the product is infinite.
        return max(1, round(min(rounds * self.epochs_mult, 2.0**31)))

    @property
    def steps_a_round(self) -> int | None:
        """Steps from one validation to the next; None where epochs decide."""
        return self.steps and min(self.steps, self.eval_every)

    @property
    def unused(self) -> tuple[str, ...]:
        # One of them says how long to train.
        return (*super().unused, "epochs" if self.steps else "eval_every")


@dataclass(frozen=True, kw_only=True)
class PPOConfig(Config):
    """A run that learns to play a game, by proximal policy optimization (PPO)."""

    game: str = "breakout"
    """Atari game, such as breakout or space_invaders"""
    sticky_actions: ClosedUnitInterval = 0.25
    """probability that the game repeats the last action instead"""
    noop_max: NonNegativeInt = 0
    """a game starts with up to N frames of no action"""
    fire_reset: bool = False
    """a game starts with FIRE where it has that; else it is for the policy to press"""
    episodic_life: bool = False
    """a lost life ends an episode in training"""
    clip_rewards: bool = True
    """train on the signs of the rewards"""

    frames: PositiveInt = 40_000_000
    """observations to train on, of four of the game's frames each"""
    eval_every: PositiveInt = 1_000_000
    """play whole games for the score every N observations, which count as an epoch"""
    eval_games: PositiveInt = 10
    """games that the score is the mean of"""
    num_actors: PositiveInt = 8
    """games that are played at the same time"""
    rollout_steps: PositiveInt = 128
    """observations of each game between two updates"""
    rollout_epochs: PositiveInt = 3
    """passes over a rollout"""
    discount: ClosedUnitInterval = 0.99
    """gamma: weight of a reward one step later"""
    gae_lambda: ClosedUnitInterval = 0.95
    """lambda of generalized advantage estimation"""
    clip_range: PositiveFloat = 0.1
    """how far a probability's ratio may go from 1; falls linearly to 0"""
    value_coefficient: NonNegativeFloat = 0.5
    """weight of the value's loss"""
    entropy_coefficient: NonNegativeFloat = 0.01
    """weight of the policy's entropy"""

    @property
    def rollout_size(self) -> int:
        """Observations of a rollout, of all actors."""
        return self.num_actors * self.rollout_steps

    @property
    def batches_per_rollout(self) -> int:
        """Minibatches of a rollout, of all passes over it."""
        return self.rollout_size // self.batch_size * self.rollout_epochs

    @property
    def rollouts_per_epoch(self) -> int:
        """Rollouts from one evaluation to the next."""
        return max(1, min(self.frames, self.eval_every) // self.rollout_size)

    @property
    def total_epochs(self) -> int:
        """Rounds that end with an evaluation."""
        frames_per_epoch = self.rollouts_per_epoch * self.rollout_size
        return max(1, round(self.frames / frames_per_epoch))


def config_type(workload: str) -> type[Config]:
    """The class of a workload's configs."""
    return PPOConfig if workload == "atari_ppo" else SupervisedConfig


# Fields that a workload has as options only where configs/<workload>.yaml names them.
OWN_FIELDS = (
    "depth",
    "dropout",
    "dataset",
    "tags",
    "max_length",
    "word_dropout",
    "image_size",
    "augment",
    "alpha",
)


def default_file(workload: str) -> Path:
    """The file of a workload's own options and defaults."""
    return ROOT / "configs" / f"{workload}.yaml"


def option_types(workload: str) -> dict[str, Any]:
    """A workload's options and their types.

    Raises:
        InputError: the file of its defaults cannot be read.
    """
    kind, own = config_type(workload), read_yaml(default_file(workload))
    hints = typing.get_type_hints(kind)
    left_out = {name for name in OWN_FIELDS if name not in own}
    if "dataset" in left_out:
        left_out.add("data_dir")
    names = (field.name for field in dataclasses.fields(kind))
    return {n: hints[n] for n in names if n != "workload" and n not in left_out}


# Fields that change where and how a run is done, not what comes out of it.
EXECUTION_FIELDS = (
    "data_dir",
    "experiment",
    "tracking_uri",
    "run_dir",
    "workers",
    "ray",
    "cpus_per_run",
    "gpus_per_run",
    "tpus_per_run",
    "rerun",
    "dry_run",
    "verbose",
)


def result_fields(config: Config) -> dict:
    """The fields that define the result, those without effect at a neutral value."""
    values = dataclasses.asdict(config)
    if not config.is_pruned:
        values.update(
            pruner="none", sparsity=None, match_width=None, allow_empty_layers=False
        )
    values.update({name: getattr(type(config), name) for name in config.unused})
    if not config.sam:
        values["rho"] = 0.0
    return {k: v for k, v in values.items() if k not in EXECUTION_FIELDS}


def varied_fields(configs: Iterable[Config]) -> dict[str, list]:
    """The fields that differ between runs, each with its values in order."""
    values = {}
    for config in configs:
        for name, value in result_fields(config).items():
            known = values.setdefault(name, [])
            if value not in known:
                known.append(value)
    return {name: known for name, known in values.items() if len(known) > 1}


# Options that are younger than runs that are recorded: at their defaults, left out of
# fingerprints, so that those runs stay known.
YOUNGER_FIELDS = ("tags", "p", "ascent_steps", "eta", "sigma", "ema_decay")
# What options of those runs are called since.
NEW_NAMES = {"perturbation": "method"}


def fingerprint(config: Config, backend: str, content: str | None = None) -> str:
    """Hash of what defines a run's result: equal runs are trained once.

    Args:
        config: the run.
        backend: keras' backend.
        content: the digest of its data set's local files; None: it has none.
    """
    fields = result_fields(config)
    for name in YOUNGER_FIELDS:
        if name in fields and fields[name] == getattr(type(config), name):
            del fields[name]
    for old, new in NEW_NAMES.items():
        fields[old] = fields.pop(new)
    identity = [backend, fields]
    version = find_workload(config.workload).version
    if version > 1:
        identity.append({"version": version})
    if content is not None:
        identity.append({"content": content})
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def count_work(config: Config, steps: int) -> float:
    """The work of a number of a run's steps, in gradients."""
    if not config.sam:
        return steps
    return steps * count_passes(config.method, config.ascent_steps)


def read_config(path: Path) -> dict[str, Any]:
    """The fields of a config's file, under the names that they have now.

    Raises:
        InputError: it cannot be read, or has a field twice.
    """
    return with_new_names(read_yaml(path), path)


def with_new_names(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """A file's options under the names that they have now.

    Raises:
        InputError: one has its old name and its new one.
    """
    for old, new in NEW_NAMES.items():
        if old in values and new in values:
            raise InputError(f"{path}: {old} is called {new} now; it is given twice")
    return {NEW_NAMES.get(name, name): value for name, value in values.items()}


def save_config(config: Config, path: Path) -> None:
    """Writes the config that `--config` reads back."""
    session = [name for name in EXECUTION_FIELDS if name != "data_dir"]
    path.write_text(to_yaml(config, leave_out=session))


def plain_values(config: Config) -> dict:
    """The fields as YAML has them."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(config).items()
    }


def to_yaml(config: Config, leave_out: Sequence[str]) -> str:
    """The workload's options with their values, as `--config` reads them."""
    names = ("workload", *option_types(config.workload))
    kept = {
        name: value
        for name, value in plain_values(config).items()
        if name in names and name not in leave_out
    }
    return yaml.safe_dump(kept, sort_keys=False)
