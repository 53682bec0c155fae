"""The options of runs, in groups, of which each workload has some."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from samkeras.data.names import has_no_columns
from samkeras.errors import InputError, nearest
from samkeras.experiment.options.fields import (
    ClosedUnitInterval,
    Fraction,
    LayerCount,
    Measures,
    NonNegativeFloat,
    NonNegativeInt,
    Norm,
    OpenUnitInterval,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
    SmallInt,
)
from samkeras.experiment.options.measures import ALONG
from samkeras.experiment.options.methods import OPTIONS, takes
from samkeras.experiment.options.targets import Target

# Of a field that says where something is, not what it is.
PLACE = {"is_place": True}


class NoSuchOptionError(InputError, AttributeError):
    """A workload reads an option that it does not have."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """A group of options: the base of all groups, with what every run has.

    Each field is an option of the command line under its own name; its type says what
    it takes, its default is the value without effect where there is one, and the text
    under it is its help. A group of your own is a frozen dataclass with keyword fields
    that inherits from this class.

    Attributes:
        target: the workload's.
        heading: what its options stand under in help, one of HEADINGS there.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Moons(Options):
        ...     noise: NonNegativeFloat = 0.1
        ...     \"\"\"standard deviation of the points\"\"\"
    """

    target: ClassVar[Target]
    heading: ClassVar[str] = "own"

    workload: str = ""
    """name of the workload, set by the target"""
    width_mult: PositiveFloat = 1.0
    """width of the model, as a multiple of the standard model's"""
    seed: NonNegativeInt = 0
    """seed of initialization, data order and every other draw"""

    @classmethod
    def of(cls, config: "Options") -> Self:
        """A run's values of this group, the defaults where its workload has it not."""
        return config if isinstance(config, cls) else cls()

    @property
    def total_epochs(self) -> int:
        """Rounds of training that end with a validation."""
        raise NotImplementedError

    def log_step(self, epoch: int, steps_per_epoch: int) -> int:
        """What an epoch's metrics are drawn over: epochs."""
        return epoch

    @property
    def unused(self) -> dict[str, str]:
        """Fields without effect on the result, given the others: each with the options
        that would give it one, as the command line has them."""
        return {}

    @property
    def neutral(self) -> dict[str, Any]:
        """The fields that the result does not depend on, with the value that all runs
        are taken to have that differ in them alone."""
        return {name: getattr(type(self), name) for name in self.unused}

    @property
    def result_fields(self) -> dict[str, Any]:
        """The fields that define the result, those without effect at a neutral
        value."""
        neutral = self.neutral
        return {
            field.name: neutral.get(field.name, getattr(self, field.name))
            for field in dataclasses.fields(self)
            if not field.metadata.get("is_place")
        }

    @property
    def plain_values(self) -> dict[str, Any]:
        """The fields as YAML has them."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    def check(self) -> None:
        """Checks the values against each other.

        Raises:
            InputError: they contradict each other.
        """

    def check_groups(self, needed: Iterable[type["Options"]], owner: str) -> None:
        """Checks that the run has groups of options.

        Args:
            needed: the groups.
            owner: what needs them.

        Raises:
            InputError: its workload does not name one of them.
        """
        for group in needed:
            if not isinstance(self, group):
                raise InputError(
                    f"{self.target.defaults}: options must have the group of "
                    f"{group.__name__}, which {owner} needs. Received: "
                    f"{', '.join(self.target.groups)}"
                )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        known = [field.name for field in dataclasses.fields(self)]
        raise NoSuchOptionError(
            f"{self.target} reads an option {name} that it does not have; `options:` "
            f"in {self.target.defaults} names its groups{nearest(name, known)}"
        )


@dataclass(frozen=True, kw_only=True)
class Method(Options):
    """SAM and its relatives."""

    heading: ClassVar[str] = "SAM"

    sam: bool = False
    """train with sharpness-aware minimization"""
    method: str = "sam"
    """with sam: the rule for the perturbation, sam's or a variant's"""
    rho: NonNegativeFloat = 0.05
    """with sam: radius of the perturbation, of asam 0.5 unless it is given"""
    m_sharpness: PositiveInt | None = None
    """with sam: examples of a batch that share a perturbation (default: all)"""
    p: Norm | Literal["inf"] = 2.0  # a word, as JSON has no infinity
    """with method sam or asam: norm of the perturbation, of asam 2 or inf"""
    ascent_steps: SmallInt = 1
    """with method sam: steps of ascent, each costs a gradient"""
    eta: NonNegativeFloat = 0.01
    """with method asam: what is added to the absolute values of the weights"""
    sigma: NonNegativeFloat = 1.0
    """with method fsam: how much of the gradients' running mean is taken off"""
    ema_decay: Fraction = 0.9
    """with method fsam or aesam: decay of the running mean of the gradients or of their
    norms"""
    fsam_order: Literal["code", "paper"] = "code"
    """with method fsam: whether the mean is that before the step, as in the authors'
    code, or with its gradient, as in the paper"""
    theta: PositiveShare = 0.9
    """with method vasso: weight of the newest gradient in their running mean"""
    lam: NonNegativeFloat = 0.5
    """with method unified: how far it is normalized, from unnormalized 0 to sam 1; with
    trace, det (1 unless it is given) or frobenius (0.005): weight of the sharpness"""
    sam_samples: SmallInt = 1
    """with method trace, det or frobenius (2 unless it is given): random points, each
    costs a gradient"""
    esam_beta: PositiveShare = 0.6
    """with method esam: fraction of the weights that are perturbed"""
    esam_gamma: PositiveShare = 0.5
    """with method esam: fraction of the examples whose gradient is taken"""
    mask_sparsity: Fraction = 0.5
    """with method ssam: fraction of the weights that are not perturbed"""
    mask_every: PositiveInt = 100
    """with method ssam: steps from one choice of the weights to the next"""
    only: Literal["all", "kernel", "bias", "embedding", "normalization"] = "all"
    """with sam: the weights that are perturbed; normalization: SAM-ON"""
    scope: Literal["global", "layer", "mup"] = "global"
    """with sam: rho is the norm of all weights' perturbation or of each tensor's, which
    with mup grows with its width"""
    sam_alpha: NonNegativeFloat = 0.4
    """with method gsam, gnp (0.8 unless given) or looksam (0.7): weight of what it
    combines with the gradient"""
    gamma: Fraction = 0.9
    """with method wsam: how much sharpness counts, as much as the loss with 0.5"""
    decoupled: bool = True
    """with method wsam: whether sharpness passes the optimizer by"""
    sam_every: PositiveInt = 1
    """with all methods but msam: perturb every N-th step alone, of looksam every 5th
    unless given; the others cost one gradient"""
    sam_start: Fraction = 0.0
    """with all methods but msam: perturb after this fraction of the training"""

    @property
    def unused(self) -> dict[str, str]:
        unused = super().unused
        for name, methods in OPTIONS.items():
            needs = [] if self.sam else ["--sam true"]
            if not takes(self.method, name):
                needs.append(f"--method {' or '.join(methods)}")
            if needs:
                unused[name] = " ".join(needs)
        return unused

    @property
    def neutral(self) -> dict[str, Any]:
        return super().neutral | ({} if self.sam else {"rho": 0.0})

    def check(self) -> None:
        super().check()
        if self.sam and self.method == "unified" and self.lam > 1:
            raise InputError(
                f"--lam must be at most 1 with --method unified. Received: {self.lam:g}"
            )
        if self.sam and self.method == "frobenius" and self.sam_samples < 2:
            raise InputError(
                "--sam_samples must be at least 2 with --method frobenius. Received: "
                f"{self.sam_samples}"
            )
        if self.sam and self.method == "asam" and self.p not in (2, "inf"):
            raise InputError(
                f"--p must be 2 or inf with --method asam. Received: {self.p:g}"
            )


@dataclass(frozen=True, kw_only=True)
class Pruning(Options):
    """Sparsity from the start."""

    heading: ClassVar[str] = "model"

    pruner: Literal["none", "snip", "random", "magnitude"] = "none"
    """how to choose the weights that stay zero from the start"""
    sparsity: Fraction | None = None
    """with a pruner: fraction of the kernels' weights to prune"""
    match_width: PositiveFloat | None = None
    """with a pruner: prune to the size of the dense model of this width_mult"""
    allow_empty_layers: bool = False
    """with a pruner: let a layer lose all its weights"""

    @property
    def is_pruned(self) -> bool:
        """Whether any weight is pruned."""
        is_dense = self.match_width == self.width_mult or self.sparsity == 0
        return self.pruner != "none" and not is_dense

    @property
    def unused(self) -> dict[str, str]:
        if self.pruner != "none":
            return super().unused
        names = ("sparsity", "match_width", "allow_empty_layers")
        needed = "--pruner snip, random or magnitude"
        return super().unused | dict.fromkeys(names, needed)

    @property
    def neutral(self) -> dict[str, Any]:
        if self.is_pruned:
            return super().neutral
        names = ("pruner", "sparsity", "match_width", "allow_empty_layers")
        return super().neutral | {name: getattr(type(self), name) for name in names}

    def check(self) -> None:
        super().check()
        if self.pruner == "none":
            return
        if self.sparsity is None and self.match_width is None:
            raise InputError(
                f"--pruner {self.pruner} needs --sparsity S or --match_width W"
            )
        if self.sparsity is not None and self.match_width is not None:
            raise InputError("give one of --sparsity and --match_width, not both")
        if self.match_width and self.match_width > self.width_mult:
            raise InputError(
                f"--match_width must be at most --width_mult {self.width_mult:g}. "
                f"Received: {self.match_width:g}"
            )


@dataclass(frozen=True, kw_only=True)
class Optimizer(Options):
    """The base optimizer and its learning rate."""

    heading: ClassVar[str] = "training"

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """base optimizer"""
    momentum: ClosedUnitInterval = 0.0
    """momentum of sgd"""
    nesterov: bool = False
    """with momentum: Nesterov's"""
    beta_1: Fraction = 0.9
    """decay of adam's and adamw's mean of the gradients"""
    beta_2: Fraction = 0.999
    """decay of adam's and adamw's mean of their squares"""
    epsilon: PositiveFloat = 1e-8
    """adam's and adamw's number that keeps them from dividing by zero"""
    amsgrad: bool = False
    """adam and adamw divide by the largest mean of squares so far; AdaSAM with --sam"""
    clip_norm: PositiveFloat | None = None
    """scale the gradients that the optimizer takes down to this norm"""
    learning_rate: NonNegativeFloat = 0.1
    """initial learning rate, after the warm-up"""
    lr_schedule: Literal["step", "cosine", "linear", "rsqrt", "inverse"] = "step"
    """how the learning rate falls"""
    warmup_steps: NonNegativeInt = 0
    """with cosine and rsqrt: steps in which the learning rate rises from 0"""
    lr_milestones: tuple[OpenUnitInterval, ...] = ()
    """with step: fractions of the epochs after which the learning rate drops"""
    lr_decay: PositiveFloat = 0.1
    """with step: factor of each drop; with inverse, epoch e has rate / (1 + X e)"""
    weight_decay: NonNegativeFloat = 0.0
    """coupled L2 with sgd and adam, decoupled with adamw"""
    decay_in_loss: bool = False
    """with weight_decay of sgd and adam: it is a part of the loss, sam's too"""

    @property
    def unused(self) -> dict[str, str]:
        unused = super().unused
        if self.optimizer == "sgd":
            names = ("beta_1", "beta_2", "epsilon", "amsgrad")
            unused |= dict.fromkeys(names, "--optimizer adam or adamw")
        else:
            unused["momentum"] = "--optimizer sgd"
        if self.optimizer != "sgd":
            unused["nesterov"] = "--optimizer sgd"
        elif not self.momentum:
            unused["nesterov"] = "--momentum X"
        if self.optimizer == "adamw":
            unused["decay_in_loss"] = "--optimizer sgd or adam"
        elif not self.weight_decay:
            unused["decay_in_loss"] = "--weight_decay X"
        if self.lr_schedule not in ("cosine", "rsqrt"):
            unused["warmup_steps"] = "--lr_schedule cosine or rsqrt"
        if self.lr_schedule != "step":
            unused["lr_milestones"] = "--lr_schedule step"
        if self.lr_schedule not in ("step", "inverse"):
            unused["lr_decay"] = "--lr_schedule step or inverse"
        elif self.lr_schedule == "step" and not self.lr_milestones:
            unused["lr_decay"] = "--lr_milestones [X,X]"
        return unused


@dataclass(frozen=True, kw_only=True)
class Training(Options):
    """What a step is taken on, and how."""

    heading: ClassVar[str] = "training"

    batch_size: PositiveInt = 128
    """examples per step"""
    precision: Literal[
        "float32", "float32_strict", "float64", "mixed_bfloat16", "mixed_float16"
    ] = "float32"
    """keras dtype policy; strict: no product is rounded to TF32 or bfloat16"""
    steps_per_execution: PositiveInt = 32
    """steps in one compiled call"""


@dataclass(frozen=True, kw_only=True)
class Config(Training, Optimizer, Pruning, Method):
    """What decides a run's result; the class of a workload's runs adds its groups."""

    def check(self) -> None:
        super().check()
        has_momentum = self.optimizer != "sgd" or self.momentum > 0
        if self.sam and self.method == "msam" and not has_momentum:
            raise InputError("--method msam needs --momentum X or --optimizer adam")
        if self.sam and self.m_sharpness and self.batch_size % self.m_sharpness:
            # A smaller last group would mix in the sharpness of another m.
            raise InputError(
                f"--m_sharpness must divide --batch_size {self.batch_size}. "
                f"Received: {self.m_sharpness}"
            )


@dataclass(frozen=True, kw_only=True)
class Dataset(Options):
    """Which examples there are."""

    heading: ClassVar[str] = "data"

    dataset: str = ""
    """data set: a TFDS name, a file or folder, FILE.py:FUNCTION, or the sample"""
    data_dir: str | None = dataclasses.field(default=None, metadata=PLACE)
    """directory of prepared TFDS data sets (default: TFDS's own)"""


@dataclass(frozen=True, kw_only=True)
class Amounts(Options):
    """How many examples are used, and what for."""

    heading: ClassVar[str] = "data"

    train_examples: PositiveInt | None = None
    """train on the first N examples"""
    validation_examples: PositiveInt | None = None
    """validate on the first N examples"""
    holdout: Fraction = 0.0
    """validate on this fraction of the training set, not on the test split"""
    holdout_last: bool = False
    """with holdout: it is the last examples, not a random choice"""

    @property
    def unused(self) -> dict[str, str]:
        if self.holdout:
            return super().unused
        return super().unused | {"holdout_last": "--holdout X"}


@dataclass(frozen=True, kw_only=True)
class Epochs(Options):
    """How long to train, in passes over the examples or in steps."""

    heading: ClassVar[str] = "training"

    epochs: PositiveInt = 1
    """passes over the training set"""
    steps: PositiveInt | None = None
    """train by steps, not by epochs: this many"""
    eval_every: PositiveInt = 1000
    """with steps: validate every N steps, which then count as an epoch"""
    epochs_mult: PositiveFloat = 1.0
    """factor of epochs and steps; the learning rate's schedule stretches with them"""

    @property
    def total_epochs(self) -> int:
        """Passes over the training set, or rounds of steps that end with a validation,
        with their factor applied."""
        per_round = self.steps_a_round
        rounds = self.steps / per_round if self.steps and per_round else self.epochs
        # No more than are refused, where the product is infinite.
        return max(1, round(min(rounds * self.epochs_mult, 2.0**31)))

    @property
    def steps_a_round(self) -> int | None:
        """Steps from one validation to the next; None where epochs decide."""
        return self.steps and min(self.steps, self.eval_every)

    def log_step(self, epoch: int, steps_per_epoch: int) -> int:
        """Steps, where epochs are counted in them, or epochs."""
        return (epoch + 1) * steps_per_epoch if self.steps else epoch

    @property
    def unused(self) -> dict[str, str]:
        # One of them says how long to train.
        if self.steps:
            needed = {"epochs": "--steps null: give one of the two, not both"}
        else:
            needed = {"eval_every": "--steps N"}
        return super().unused | needed

    def check(self) -> None:
        super().check()
        if self.total_epochs >= 2**31:
            raise InputError(
                "--epochs_mult must leave less than 2**31 epochs. Received: "
                f"{self.epochs_mult:g}"
            )
        per_round = self.steps_a_round
        if self.steps and per_round and self.steps % per_round:
            raise InputError(
                f"--steps must be a multiple of --eval_every {self.eval_every}. "
                f"Received: {self.steps}"
            )


@dataclass(frozen=True, kw_only=True)
class LabelNoise(Options):
    """Labels that are wrong."""

    heading: ClassVar[str] = "data"

    label_noise: ClosedUnitInterval = 0.0
    """fraction of training labels replaced by another class"""


@dataclass(frozen=True, kw_only=True)
class Depth(Options):
    """The model's depth."""

    heading: ClassVar[str] = "model"

    depth: SmallInt | None = None
    """hidden layers, or blocks a stage (default: the standard model's)"""


@dataclass(frozen=True, kw_only=True)
class Layers(Options):
    """The model's depth, in layers."""

    heading: ClassVar[str] = "model"

    depth: LayerCount | None = None
    """layers, as the network's name counts them (default: the standard model's)"""


@dataclass(frozen=True, kw_only=True)
class Shortcuts(Options):
    """How residual networks pass on what has fewer filters."""

    heading: ClassVar[str] = "model"

    shortcut: Literal["projection", "zero_pad"] = "projection"
    """where blocks have more filters than their input: a 1x1 convolution of it, or
    zeros as its further channels"""


@dataclass(frozen=True, kw_only=True)
class Pyramid(Options):
    """What PyramidNets are made of."""

    heading: ClassVar[str] = "model"

    widening: PositiveInt = 200
    """filters that the last block has more than the first layer (alpha)"""
    bottleneck: bool = True
    """blocks of a 1x1, a 3x3 and a 1x1 convolution, not of two 3x3 ones"""
    shake_drop: bool = False
    """regularize by ShakeDrop"""


@dataclass(frozen=True, kw_only=True)
class Normalized(Options):
    """Networks with or without normalization."""

    heading: ClassVar[str] = "model"

    batch_norm: bool = True
    """normalize by batches"""


@dataclass(frozen=True, kw_only=True)
class Dropout(Options):
    """Dropout, in the models that have it."""

    heading: ClassVar[str] = "model"

    dropout: Fraction | None = None
    """rate of dropout"""


@dataclass(frozen=True, kw_only=True)
class Columns(Options):
    """What a file calls its columns."""

    heading: ClassVar[str] = "data"

    text_column: str | None = None
    """column of texts in a file, or of SMILES (default: text, sentence, ..., smiles)"""
    label_column: str | None = None
    """column of labels, or property in an .sdf file (default: label, class, ...; of
    molecules without such all of 0 and 1, in graph_regression all of numbers)"""

    @property
    def unused(self) -> dict[str, str]:
        # By its name alone: what stands there may differ from machine to machine, and
        # runs must not. What else has no columns is refused where it is read.
        dataset, names = getattr(self, "dataset", ""), ()
        if has_no_columns(dataset):
            names = ("text_column", "label_column")
        elif dataset.lower().endswith(".sdf"):
            names = ("text_column",)
        needed = "--dataset FILE.csv, .tsv or .jsonl"
        return super().unused | dict.fromkeys(names, needed)


@dataclass(frozen=True, kw_only=True)
class MaxLength(Options):
    """Sentences of a limited length."""

    heading: ClassVar[str] = "data"

    max_length: PositiveInt | None = None
    """cut sentences to N words"""


@dataclass(frozen=True, kw_only=True)
class Treebank(Options):
    """What a tagger learns of a treebank."""

    heading: ClassVar[str] = "data"

    tags: Literal["xpos", "upos"] = "xpos"
    """tags of the treebank's language, or those that all treebanks share"""
    word_dropout: NonNegativeFloat = 0.0
    """words are unknown in training with probability X / (X + their count)"""


@dataclass(frozen=True, kw_only=True)
class ImageSize(Options):
    """Images of one size."""

    heading: ClassVar[str] = "data"

    image_size: PositiveInt | None = None
    """height and width that images are brought to"""


@dataclass(frozen=True, kw_only=True)
class Augmentation(Options):
    """Images that differ from epoch to epoch."""

    heading: ClassVar[str] = "data"

    augment: bool = False
    """train on random crops of the images, mirrored or not"""

    @property
    def is_augmented(self) -> bool:
        """Whether they do."""
        return self.augment


@dataclass(frozen=True, kw_only=True)
class Recipe(Options):
    """How Foret et al. (2021) have images and labels differ from epoch to epoch."""

    heading: ClassVar[str] = "data"

    augment: Literal["none", "basic", "cutout", "autoaugment"] = "none"
    """train on random crops of the images, padded by reflection, mirrored or not; with
    cutout a square of them is blank; with autoaugment AutoAugment comes before both"""
    cutout_size: PositiveInt = 16
    """with augment cutout or autoaugment: side of the square, in pixels"""
    cutout_per: Literal["batch", "image"] = "batch"
    """with augment cutout or autoaugment: what has a place of its own for it"""
    mixup: NonNegativeFloat = 0.0
    """train on means of two images each, by shares of Beta(X, X); 0: not"""
    bootstrap: bool = False
    """train anew on the labels that a first run, the same without it, predicts"""

    @property
    def is_augmented(self) -> bool:
        """Whether images are changed at random."""
        return self.augment != "none"

    @property
    def cuts_out(self) -> bool:
        """Whether a square of them is blank."""
        return self.augment in ("cutout", "autoaugment")

    @property
    def unused(self) -> dict[str, str]:
        if self.cuts_out:
            return super().unused
        names = ("cutout_size", "cutout_per")
        needed = "--augment cutout or autoaugment"
        return super().unused | dict.fromkeys(names, needed)


@dataclass(frozen=True, kw_only=True)
class Remainder(Options):
    """What becomes of the examples that are too few for a batch."""

    heading: ClassVar[str] = "data"

    drop_remainder: bool = False
    """leave out the examples of an epoch that fill no batch"""


@dataclass(frozen=True, kw_only=True)
class LabelSmoothing(Options):
    """Labels that leave something to other classes."""

    heading: ClassVar[str] = "data"

    label_smoothing: Fraction = 0.0
    """part of each label that is spread over all classes"""


@dataclass(frozen=True, kw_only=True)
class Pretrained(Options):
    """Networks that know images already."""

    heading: ClassVar[str] = "model"

    backbone: str = "efficientnet_b7"
    """network of keras.applications with its ImageNet weights, such as
    efficientnet_b0 or resnet50, or a FILE.keras"""
    pretrained: bool = True
    """start from its weights, whose BatchNorm's statistics stay; or anew"""


def find_first(config: Options) -> Any:
    """The run whose predictions another one, of `bootstrap`, has as its labels; None:
    it has its own."""
    if not Recipe.of(config).bootstrap:
        return None
    return dataclasses.replace(config, **{"bootstrap": False})


@dataclass(frozen=True, kw_only=True)
class Linearized(Options):
    """The linear regime."""

    heading: ClassVar[str] = "model"

    alpha: PositiveFloat | None = None
    """train the centred model scaled by alpha with a squared loss: linear if large"""


@dataclass(frozen=True, kw_only=True)
class PPOOptions(Training):
    """A game, and how to learn it by proximal policy optimization (PPO)."""

    heading: ClassVar[str] = "training"

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

    def log_step(self, epoch: int, steps_per_epoch: int) -> int:
        """Observations trained on."""
        return (epoch + 1) * self.rollouts_per_epoch * self.rollout_size

    def check(self) -> None:
        super().check()
        if self.rollout_size % self.batch_size:
            raise InputError(
                "--batch_size must divide --num_actors times --rollout_steps, "
                f"{self.rollout_size}. Received: {self.batch_size}"
            )


@dataclass(frozen=True, kw_only=True)
class Measuring(Options):
    """What the loss looks like around a run's weights."""

    heading: ClassVar[str] = "measures"

    measure: Measures = ()
    """what to measure of the last epoch's weights, such as eigenvalues,trace"""
    measure_every: PositiveInt | None = None
    """with measure: measure after every N epochs too, as a part of the training"""
    measure_examples: PositiveInt = 5000
    """with measure: on N training examples, or all there are"""

    @property
    def unused(self) -> dict[str, str]:
        if self.measure:
            return super().unused
        names = ("measure_every", "measure_examples")
        return super().unused | dict.fromkeys(names, "--measure NAME,NAME")

    @property
    def neutral(self) -> dict[str, Any]:
        if self.measure and self.measure_every:
            return super().neutral
        # What is measured of a run that is over makes no other run of it.
        names = ("measure", "measure_every", "measure_examples")
        return super().neutral | {name: getattr(type(self), name) for name in names}

    def check(self) -> None:
        super().check()
        for name in ALONG:
            if name in self.measure and self.measure_every is None:
                raise InputError(f"--measure {name} needs --measure_every N")
        if self.measure and (self.measure_every or 0) > self.total_epochs:
            raise InputError(
                f"--measure_every must be at most the {self.total_epochs} epochs. "
                f"Received: {self.measure_every}"
            )


# The groups that a workload's file names in `options:`.
GROUPS: dict[str, tuple[type[Options], ...]] = {
    "supervised": (Dataset, Amounts, Epochs, Measuring),
    "ppo": (PPOOptions,),
    "label_noise": (LabelNoise,),
    "depth": (Depth,),
    "layers": (Layers,),
    "shortcut": (Shortcuts,),
    "pyramid": (Pyramid,),
    "batch_norm": (Normalized,),
    "dropout": (Dropout,),
    "columns": (Columns,),
    "max_length": (MaxLength,),
    "treebank": (Treebank,),
    "image_size": (ImageSize,),
    "recipe": (Recipe, Remainder, LabelSmoothing),
    "remainder": (Remainder,),
    "label_smoothing": (LabelSmoothing,),
    "pretrained": (Pretrained,),
    "augmentation": (Augmentation,),
    "linearized": (Linearized,),
}
