"""What every method of SAM's family has to hold: one battery over one list, `CASES`."""

import functools
import json
import re
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.optimizers.schedules import PolynomialDecay

import samkeras
from samkeras.experiment.options.methods import CLASSES
from tests.helpers import (
    build_classifier,
    compile_classifier,
    random_examples,
    relative_error,
    train,
)

RHO, RATE = 0.5, 0.1
Steps = list[tuple[float, float]]


def momentum_sgd():
    return samkeras.SGD(RATE, momentum=0.9)


class Case(NamedTuple):
    """A method on the loss (a^2 + 4 b^2) / 2 from (3, 1).

    Attributes:
        build: makes it.
        steps: a and b after each step, of its formula in float64.
        passes: what it says that a step costs.
        optimizer: makes the base optimizer.
        layers: the models that it takes these steps on.
    """

    build: Callable[[], samkeras.Method]
    steps: Steps
    passes: float = 2.0
    optimizer: Callable = lambda: keras.optimizers.SGD(RATE)
    layers: tuple[str, ...] = ("one_tensor", "two_scalars")


# A new method is a line here, and one in samkeras/experiment/options/methods.py and
# each list of names of the library.
CASES = {
    "sam": Case(
        lambda: samkeras.SAM(RHO),
        [(2.67, 0.44), (2.361253723, 0.153927418), (2.076746138, 0.041892757)],
    ),
    "sam_2_ascents": Case(
        lambda: samkeras.SAM(RHO, steps=2),
        [(2.671283589, 0.436395209), (2.363666405, 0.144861639)],
        passes=3,
    ),
    "sam_signs": Case(
        lambda: samkeras.SAM(RHO, p=float("inf")),
        [(2.65, 0.4), (2.335, 0.04), (2.0515, -0.176)],
    ),
    "sam_every_2": Case(
        lambda: samkeras.SAM(RHO, every=2),
        [(2.67, 0.44), (2.403, 0.264), (2.116924984, 0.077936551)],
        passes=1.5,
    ),
    "sam_late": Case(
        lambda: samkeras.SAM(RHO, start=1),
        [(2.7, 0.6), (2.392629534, 0.227127232), (2.106622925, 0.065279927)],
    ),
    "sam_late_every_2": Case(
        lambda: samkeras.SAM(RHO, every=2, start=1),
        [(2.7, 0.6), (2.392629534, 0.227127232), (2.153366581, 0.136276339)],
        passes=1.5,
    ),
    "second_order": Case(
        lambda: samkeras.SecondOrderSAM(RHO),
        [(2.67576, 0.42272), (2.371632337, 0.11060896), (2.086344878, 0.007649998)],
        passes=4,
    ),
    "unnormalized": Case(
        lambda: samkeras.UnnormalizedSAM(RHO),
        [(2.55, -0.2), (2.1675, 0.04), (1.842375, -0.008)],
    ),
    "asam_eta_0": Case(
        lambda: samkeras.ASAM(RHO, eta=0.0),
        [
            (2.562928268, 0.518772307),
            (2.180176028, 0.294483377),
            (1.853438757, 0.172403201),
        ],
    ),
    "asam": Case(
        lambda: samkeras.ASAM(RHO),
        [(2.562622346, 0.517505578), (2.179457909, 0.293263969)],
    ),
    "asam_offset": Case(
        lambda: samkeras.ASAM(RHO),
        [(2.562396059, 0.518997839), (2.183477298, 0.251318086)],
        layers=("bias",),
    ),
    "asam_offset_eta_0": Case(
        lambda: samkeras.ASAM(RHO, eta=0.0),
        [(2.562928268, 0.518772307), (2.184441485, 0.251016147)],
        layers=("bias",),
    ),
    "fsam": Case(
        lambda: samkeras.FSAM(RHO),
        [(2.67, 0.44), (2.410287414, 0.461864341), (2.183125954, 0.469272647)],
    ),
    "fsam_half": Case(
        lambda: samkeras.FSAM(RHO, sigma=0.5),
        [(2.67, 0.44), (2.354019865, 0.304188829), (2.079022185, 0.304639857)],
    ),
    "fsam_paper": Case(
        lambda: samkeras.FSAM(RHO, order="paper"),
        [(2.67, 0.44), (2.359632956, 0.164457082), (2.073780984, 0.085335625)],
    ),
    "fsam_paper_half": Case(
        lambda: samkeras.FSAM(RHO, sigma=0.5, order="paper"),
        [(2.67, 0.44), (2.360529199, 0.158455239), (2.075270445, 0.059568567)],
    ),
    "vasso": Case(
        lambda: samkeras.VaSSO(RHO, theta=0.4),
        [(2.67, 0.44), (2.369068309, 0.117104645), (2.092509685, -0.051572203)],
    ),
    "unified": Case(
        lambda: samkeras.UnifiedSAM(RHO, lam=0.5),
        [(2.61, 0.12), (2.259162346, 0.005912531), (1.951768423, 0.00013571)],
    ),
    "monge": Case(
        lambda: samkeras.MongeSAM(RHO),
        [
            (2.694116516, 0.568621418),
            (2.414280233, 0.305969214),
            (2.157397129, 0.152242804),
        ],
    ),
    "light": Case(
        lambda: samkeras.LightSAM(RHO),
        [(2.67, 0.44), (2.380507045, 0.204692732), (2.123994186, 0.097415546)],
    ),
    "ssam_of_all": Case(
        lambda: samkeras.SSAM(RHO, sparsity=0.0, mask_every=1),
        [(2.67, 0.44), (2.361253723, 0.153927418), (2.076746138, 0.041892757)],
    ),
    "esam_of_all": Case(
        lambda: samkeras.ESAM(RHO, beta=1.0, gamma=1.0),
        [(2.67, 0.44), (2.361253723, 0.153927418), (2.076746138, 0.041892757)],
    ),
    # Of the two rows' losses, a^2 and 4 b^2, the second one rises more, then the first.
    "esam": Case(
        lambda: samkeras.ESAM(RHO, beta=1.0),
        [(3.0, -0.12), (2.301255937, -0.12), (1.743111566, -0.12)],
        passes=1 + 1 / 3 + 1 / 2,
    ),
    "gsam": Case(
        lambda: samkeras.GSAM(RHO),
        [
            (2.689086391, 0.428752663),
            (2.391884957, 0.134253822),
            (2.10722738, 0.026945809),
        ],
    ),
    "gsam_every_2": Case(
        lambda: samkeras.GSAM(RHO, every=2),
        [
            (2.689086391, 0.428752663),
            (2.420177751, 0.257251598),
            (2.141036484, 0.061960181),
        ],
        passes=1.5,
    ),
    "gnp": Case(
        lambda: samkeras.GNP(RHO),
        [(2.676, 0.472), (2.375715871, 0.190961381), (2.10006418, 0.065602426)],
    ),
    "wsam": Case(
        lambda: samkeras.WSAM(RHO),
        [(2.43, -0.84), (1.923291571, 0.954535509), (1.52851972, -1.03484558)],
    ),
    "wsam_coupled": Case(
        lambda: samkeras.WSAM(RHO, decoupled=False),
        [(2.43, -0.84), (1.923291571, 0.954535509), (1.52851972, -1.03484558)],
    ),
    "wsam_momentum": Case(
        lambda: samkeras.WSAM(RHO, gamma=0.6),
        [(2.655, 0.36), (2.053572611, -0.287028912), (1.300801797, -0.479419351)],
        optimizer=momentum_sgd,
    ),
    "wsam_coupled_momentum": Case(
        lambda: samkeras.WSAM(RHO, gamma=0.6, decoupled=False),
        [(2.655, 0.36), (2.013072611, -0.503028912), (1.180985084, -0.866461773)],
        optimizer=momentum_sgd,
    ),
    "stable": Case(
        lambda: samkeras.StableSAM(RHO),
        [
            (2.746153846, 0.569230769),
            (2.510317077, 0.301577234),
            (2.282146907, 0.141867797),
        ],
    ),
    "looksam_2": Case(
        lambda: samkeras.LookSAM(RHO, every=2),
        [(2.67, 0.44), (2.582081836, 0.129688623), (2.274853174, 0.038419235)],
        passes=1.5,
    ),
    "looksam_3": Case(
        lambda: samkeras.LookSAM(RHO, every=3),
        [
            (2.67, 0.44),
            (2.582081836, 0.129688623),
            (2.471359546, -0.032801247),
            (2.174293907, -0.009077639),
        ],
        passes=4 / 3,
    ),
    "aesam": Case(
        lambda: samkeras.AESAM(RHO, PolynomialDecay(1.0, 3, -1.0), ema_decay=0.3),
        [
            (2.67, 0.44),
            (2.403, 0.264),
            (2.1627, 0.1584),
            (1.898446808, 0.038810008),
        ],
        passes=1.5,
    ),
    "aesam_middle": Case(
        lambda: samkeras.AESAM(RHO, ema_decay=0.1),
        [(2.67, 0.44), (2.403, 0.264), (2.1627, 0.1584)],
        passes=1.5,
    ),
    "msam": Case(
        lambda: samkeras.MomentumSAM(RHO),
        [(2.7, 0.6), (2.19, 0.16), (1.549857836, -0.169353349)],
        passes=1,
        optimizer=momentum_sgd,
    ),
    "msam_keras": Case(
        lambda: samkeras.MomentumSAM(RHO),
        [(2.7, 0.6), (2.19, 0.16), (1.549857836, -0.169353349)],
        passes=1,
        optimizer=lambda: keras.optimizers.SGD(RATE, momentum=0.9),
    ),
    "msam_adam": Case(
        lambda: samkeras.MomentumSAM(RHO),
        [(2.9, 0.9), (2.800255338, 0.805288588), (2.700611855, 0.712076515)],
        passes=1,
        optimizer=lambda: keras.optimizers.Adam(RATE, beta_2=0.9, epsilon=1e-8),
    ),
}
# Whose points are drawn: the backends take other steps, and no formula says which.
ONE = ("two_scalars",)
RANDOM = {
    "random": Case(lambda: samkeras.RandomPerturbation(RHO), [], layers=ONE),
    "trace": Case(lambda: samkeras.TraceSAM(RHO), [], layers=ONE),
    "det": Case(lambda: samkeras.DetSAM(0.1), [], layers=ONE),
    "frobenius": Case(lambda: samkeras.FrobeniusSAM(0.1), [], passes=3, layers=ONE),
}
EACH_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
EACH_OF_ALL = pytest.mark.parametrize(
    "case", [*CASES.values(), *RANDOM.values()], ids=[*CASES, *RANDOM]
)

# What methods are in a limit of their numbers, and the pairs.
OTHERS = {
    "sgd": lambda: None,
    "sam": lambda: samkeras.SAM(0.1),
    "sam_every_3": lambda: samkeras.SAM(0.1, every=3),
    "random": lambda: samkeras.RandomPerturbation(0.1, seed=3),
    "gnp": lambda: samkeras.GNP(0.1, alpha=0.8),
}
LIMITS = {
    "second_order": (lambda: samkeras.SecondOrderSAM(0.0), "sgd"),
    "fsam": (lambda: samkeras.FSAM(0.1, sigma=0.0), "sam"),
    "vasso": (lambda: samkeras.VaSSO(0.1, theta=1.0), "sam"),
    "unified": (lambda: samkeras.UnifiedSAM(0.1, lam=1.0), "sam"),
    "every_1": (lambda: samkeras.SAM(0.1, every=1), "sam"),
    "never": (lambda: samkeras.SAM(0.1, start=99), "sgd"),
    "ssam": (lambda: samkeras.SSAM(0.1, 0.0, mask_every=1), "sam"),
    "esam": (lambda: samkeras.ESAM(0.1, beta=1.0, gamma=1.0), "sam"),
    "trace": (lambda: samkeras.TraceSAM(0.1, seed=3), "random"),
    "det_0": (lambda: samkeras.DetSAM(0.1, lam=0.0), "sgd"),
    "frobenius_0": (lambda: samkeras.FrobeniusSAM(0.1, lam=0.0), "sgd"),
    "gsam": (lambda: samkeras.GSAM(0.1, alpha=0.0), "sam"),
    "gnp": (lambda: samkeras.GNP(0.1, alpha=1.0), "sam"),
    "gnp_0": (lambda: samkeras.GNP(0.1, alpha=0.0), "sgd"),
    "wsam": (lambda: samkeras.WSAM(0.1, gamma=0.5, decoupled=False), "sam"),
    "wsam_0": (lambda: samkeras.WSAM(0.1, gamma=0.0), "sgd"),
    "wsam_gnp": (lambda: samkeras.WSAM(0.1, gamma=4 / 9, decoupled=False), "gnp"),
    "looksam": (lambda: samkeras.LookSAM(0.1, every=1), "sam"),
    "looksam_rho_0": (lambda: samkeras.LookSAM(0.0, every=3), "sgd"),
    "looksam_0": (lambda: samkeras.LookSAM(0.1, alpha=0.0, every=3), "sam_every_3"),
    "aesam": (lambda: samkeras.AESAM(0.1, threshold=-9.0), "sam"),
    "aesam_never": (lambda: samkeras.AESAM(0.1, threshold=99.0), "sgd"),
    "msam": (lambda: samkeras.MomentumSAM(0.0), "sgd"),
}


@keras.saving.register_keras_serializable(package="tests")
class TwoScalars(layers.Layer):
    """x: float32[batch, 2] -> x[:, 0] a + x[:, 1] b, of two weights."""

    def build(self, input_shape):
        self.a, self.b = self.add_weight(()), self.add_weight(())

    def call(self, x):
        return x[:, :1] * self.a + x[:, 1:] * self.b


@keras.saving.register_keras_serializable(package="tests")
class WithBias(layers.Layer):
    """As TwoScalars, and b is the layer's bias."""

    def build(self, input_shape):
        self.kernel = self.add_weight((1,))
        self.bias = self.add_weight((1,))

    def call(self, x):
        return x[:, :1] * self.kernel + x[:, 1:] * self.bias


LAYERS = {
    "one_tensor": lambda: layers.Dense(1, use_bias=False),
    "two_scalars": TwoScalars,
    "bias": WithBias,
}
# Two rows whose mean squared error is the loss.
X, Y = np.array([[1, 0], [0, 2]], "float32"), np.zeros((2, 1), "float32")


def build_problem(layer: str, start=(3.0, 1.0)) -> samkeras.SAMModel:
    inputs = keras.Input((2,))
    model = samkeras.SAMModel(inputs, LAYERS[layer]()(inputs))
    shapes = [w.shape for w in model.trainable_variables]
    parts = np.split(np.array(start), len(shapes))
    model.set_weights([p.reshape(s) for p, s in zip(parts, shapes, strict=True)])
    return model


def compile_case(case: Case, layer: str = "", start=(3.0, 1.0), **kwargs):
    model = build_problem(layer or case.layers[-1], start)
    kwargs.setdefault("optimizer", case.optimizer())
    model.compile(loss="mse", method=case.build(), **kwargs)
    return model


def point(model) -> np.ndarray:
    return np.concatenate([np.ravel(w) for w in model.get_weights()])


def follow(model, steps: Steps, x=X, y=Y) -> None:
    for expected in steps:
        model.train_on_batch(x, y)
        np.testing.assert_allclose(point(model), expected, rtol=1e-6, atol=1e-6)


@functools.cache
def walk(build: Callable[[], samkeras.Method]) -> Steps:
    """The steps of a method that draws, one by one."""
    model, steps = compile_case(Case(build, []), *ONE), []
    for _ in range(2):
        model.train_on_batch(X, Y)
        steps.append(tuple(point(model)))
    return steps


def steps_of(case: Case) -> Steps:
    return case.steps or walk(case.build)


def assert_same(variables: list, others: list) -> None:
    for ours, theirs in zip(variables, others, strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (ours, theirs)))


@pytest.mark.parametrize(
    ("case", "layer"),
    [
        pytest.param(case, layer, id=f"{name}-{layer}")
        for name, case in CASES.items()
        for layer in case.layers
    ],
)
def test_it_takes_the_steps_of_its_formula(case, layer):
    """However the two weights are cut into tensors."""
    follow(compile_case(case, layer), case.steps)


@EACH_OF_ALL
def test_fused_steps_and_equal_groups_are_the_same(case):
    """All steps in one call of a compiled program, on groups that are all alike; on the
    other model than the checks below."""
    steps, layer = steps_of(case), case.layers[0]
    model = compile_case(case, layer, m_sharpness=2, steps_per_execution=len(steps))
    x, y = (np.tile(array, (2 * len(steps), 1)) for array in (X, Y))
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    np.testing.assert_allclose(point(model), steps[-1], rtol=1e-6, atol=1e-6)


# The first case of each class; decoupled WSAM's second part passes the optimizer by.
OF_CLASSES = {
    type(case.build()).__name__: case
    for name, case in reversed(CASES.items())
    if name != "wsam"
}


@pytest.mark.parametrize("case", OF_CLASSES.values(), ids=OF_CLASSES)
def test_a_schedule_is_its_number_and_what_the_optimizer_takes_is_clipped(case):
    """A radius that a schedule gives, and a step of at most 2 in its direction."""
    config = case.build().get_config()
    schedule = PolynomialDecay(RHO, 9, RHO)
    method = type(case.build()).from_config({**config, "rho": schedule})
    optimizer = case.optimizer()
    optimizer.global_clipnorm = 2.0
    model = compile_case(case._replace(build=lambda: method), optimizer=optimizer)
    model.train_on_batch(X, Y)
    move = np.subtract(case.steps[0], (3, 1))
    move *= min(1, RATE * 2 / np.linalg.norm(move))
    np.testing.assert_allclose(point(model), np.add((3, 1), move), rtol=1e-6)


@pytest.mark.parametrize("layer", LAYERS)
def test_asam_is_sam_where_all_weights_are_of_size_one(layer):
    ends = []
    for method in (samkeras.ASAM(RHO, eta=0.0), samkeras.SAM(RHO)):
        case = CASES["sam"]._replace(build=lambda method=method: method)
        model = compile_case(case, layer, start=(1.0, -1.0))
        model.train_on_batch(X, Y)
        ends.append(point(model))
    np.testing.assert_allclose(*ends, rtol=1e-6)
    assert np.abs(ends[0] - (0.9, -0.6)).max() > 1e-3  # where SGD goes


@pytest.mark.parametrize(
    "name", ["sam_every_2", "fsam", "wsam_momentum", "looksam_3", "aesam", "msam"]
)
def test_it_is_the_same_where_nothing_is_compiled(name):
    follow(compile_case(CASES[name], run_eagerly=True), CASES[name].steps)


@EACH_OF_ALL
def test_it_goes_on_where_it_was(case, tmp_path):
    """Saved after the first step, to the bit."""
    model, steps = compile_case(case), steps_of(case)
    follow(model, steps[:1])
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for each in (model, loaded):
        follow(each, steps[1:])
    assert_same(model.get_weights(), loaded.get_weights())
    assert_same(model.method.state, loaded.method.state)


@EACH_OF_ALL
def test_gradients_of_zero_make_no_nan(case):
    model = compile_case(case, start=(0.0, 0.0))
    for _ in range(2):
        model.train_on_batch(X, Y)
    if case.steps:
        np.testing.assert_array_equal(point(model), [0, 0])
    for variable in (*model.weights, *model.method.state):
        assert np.isfinite(ops.convert_to_numpy(variable)).all()


@EACH_OF_ALL
def test_a_skipped_step_leaves_no_trace(case):
    """Of a batch with infinities: neither in the weights nor in the state, which are of
    unscaled gradients."""
    optimizer = keras.optimizers.LossScaleOptimizer(
        case.optimizer(), initial_scale=2.0**10
    )
    model = compile_case(case, optimizer=optimizer)
    model.build_for((X, Y))
    for expected in steps_of(case):
        state = [ops.convert_to_numpy(v) for v in model.method.state]
        weights = model.get_weights()
        model.train_on_batch(np.full_like(X, np.inf), Y)
        assert_same(model.get_weights(), weights)
        assert_same(model.method.state, state)
        follow(model, [expected])


@EACH_CASE
def test_a_pruned_weight_is_as_if_it_were_not_there(case):
    """Its gradient and its part of a state are zero, as those of a weight without
    input."""
    model, alone = (compile_case(case, start=(3.0, 0.0)) for _ in range(2))
    weights = model.trainable_variables
    kept = [np.arange(2).reshape(w.shape) == 0 for w in weights if w.shape == (2, 1)]
    kept = kept or [np.ones(weights[0].shape, bool), np.zeros(weights[1].shape, bool)]
    model.set_masks(list(zip(weights, kept, strict=True)))
    moved = X + np.array([[0, 1], [0, 0]], "float32")
    for _ in range(3):
        model.train_on_batch(moved, Y)
        alone.train_on_batch(X * [1, 0], Y)
        np.testing.assert_allclose(point(model), point(alone), rtol=1e-6)


@EACH_OF_ALL
def test_its_config_makes_it_again(case):
    """Also from JSON, which has no infinity."""
    method = case.build()
    text = json.dumps(keras.saving.serialize_keras_object(method), allow_nan=False)
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(again) is type(method)
    assert again.get_config() == method.get_config()
    assert again.passes == method.passes == pytest.approx(case.passes)


def train_by(method: samkeras.Method | None, in_groups: bool) -> list[np.ndarray]:
    """The weights after a training with dropout and BatchNorm."""
    keras.utils.set_random_seed(1)
    model = compile_classifier(
        build_classifier(dropout=0.5, norm=True),
        method=method,
        m_sharpness=8 if in_groups else None,
    )
    train(model, *random_examples())
    return model.get_weights()


@functools.cache
def train_by_other(name: str) -> list[np.ndarray]:
    return train_by(OTHERS[name](), in_groups=name != "sgd")


@pytest.mark.parametrize(("build", "other"), LIMITS.values(), ids=LIMITS)
def test_it_is_another_in_the_limit(build, other):
    """With dropout and BatchNorm, in groups where there is a method."""
    weights = train_by(build(), in_groups=other != "sgd")
    assert relative_error(weights, train_by_other(other)) < 2e-7


def test_looksam_keeps_no_rounding_errors_near_a_minimum():
    """With a rho of 0 nothing is orthogonal to a gradient, however small it is."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    model = samkeras.SAMModel(inputs, keras.layers.Dense(1)(inputs))
    method = samkeras.LookSAM(0.0, every=2)
    model.compile(samkeras.SGD(0.1), "mse", method=method)
    x = np.random.default_rng(0).standard_normal((16, 3)).astype("float32")
    y = np.asarray(model(x)) + np.float32(1e-6) * x[:, :1]
    model.train_on_batches([(x, y)])
    assert len(method.state) > 0
    for kept in method.state:
        assert not np.any(np.asarray(kept))


def count_in_hlo(text: str) -> list[list[int]]:
    """The products of matrices in the branches of each conditional of a program."""
    computation = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*?^}", re.M | re.S)
    bodies = {match[1]: match[0] for match in computation.finditer(text)}

    def count(name: str) -> int:
        called = re.findall(r"(?:calls|to_apply|body)=%?([\w.-]+)", bodies[name])
        return len(re.findall(r" dot\(", bodies[name])) + sum(map(count, called))

    pairs = re.findall(
        r" conditional\(.*(?:true_computation=%?([\w.-]+), false_computation=%?"
        r"([\w.-]+)|branch_computations=\{%?([\w.-]+), %?([\w.-]+)\})",
        text,
    )
    return [[count(name) for name in pair if name] for pair in pairs]


def count_in_graph(graph) -> list[list[int]]:
    functions = {f.signature.name: f.node_def for f in graph.library.function}

    def nodes_of(name: str) -> list:
        own = functions[name]
        names = [v.func.name for n in own for v in n.attr.values() if v.func.name]
        return [*own, *(node for name in names for node in nodes_of(name))]

    return [
        [
            sum(n.op == "MatMul" for n in nodes_of(node.attr[branch].func.name))
            for branch in ("else_branch", "then_branch")
        ]
        for node in [*graph.node, *(n for nodes in functions.values() for n in nodes)]
        if node.op in ("If", "StatelessIf")
    ]


@pytest.mark.parametrize(
    ("method", "products"),
    [
        (lambda: samkeras.SAM(0.1, every=2), 5),
        (lambda: samkeras.GSAM(0.1, start=2), 5),
        (lambda: samkeras.FSAM(0.1, every=2, start=1), 5),
        (lambda: samkeras.LookSAM(0.1), 5),
        (lambda: samkeras.AESAM(0.1), 5),
        (lambda: samkeras.SAM(0.1), None),
    ],
    ids=["every", "start", "fsam", "looksam", "aesam", "always"],
)
def test_a_skipped_pass_is_a_branch_of_the_program(method, products):
    """One branch has the products of a pass through two layers, two forward and three
    back, and the other none; where all steps are perturbed there is no such branch."""
    model = compile_classifier(build_classifier(), method=method())
    batch = random_examples(16)
    model.train_on_batches([batch])
    if keras.backend.backend() == "jax":
        program = model.train_function
        values = [variable.value for variable in program._inputs]
        lowered = program._one_step.lower(values, model._take_state(True), batch)
        found = count_in_hlo(lowered.compile().as_text())
    else:
        (program,) = model._train_steps._compiled.values()
        graph = program.get_concrete_function().graph
        found = count_in_graph(graph.as_graph_def())
    branches = [pair for pair in found if any(pair)]
    assert branches == ([] if products is None else [[0, products]])


def list_convolutions(jaxpr, is_in_branch: bool = False) -> list:
    """The axes of the convolutions that are in branches of a program."""
    from jax.extend.core import jaxprs_in_params

    found = []
    for equation in jaxpr.eqns:
        if is_in_branch and equation.primitive.name == "conv_general_dilated":
            found.append(equation.params["dimension_numbers"])
        is_branch = is_in_branch or equation.primitive.name == "cond"
        for inner in jaxprs_in_params(equation.params):
            found += list_convolutions(inner, is_branch)
    return found


def test_convolutions_may_be_in_a_branch():
    """They give what those outside do; on JAX their axes are in the order in which a
    CPU is fast, where it would not bring them into it: gradients took thirty times as
    long."""
    x = np.random.default_rng(0).standard_normal((8, 9, 9, 3)).astype("float32")
    y = np.arange(8) % 2
    results = []
    for method in (samkeras.SAM(0.1), samkeras.AESAM(0.1, threshold=-9.0)):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((9, 9, 3))
        hidden = layers.Conv2D(4, 3, activation="relu", use_bias=False)(inputs)
        hidden = layers.BatchNormalization()(hidden)
        hidden = layers.DepthwiseConv2D(3, padding="same")(hidden)
        hidden = layers.Conv2D(6, 3, strides=2, padding="same")(hidden)
        hidden = layers.Conv2D(6, 1, strides=2)(hidden)
        outputs = layers.Dense(2)(layers.GlobalAveragePooling2D()(hidden))
        model = compile_classifier(samkeras.SAMModel(inputs, outputs), method=method)
        for _ in range(3):
            model.train_on_batches([(x, y)])
        results.append(model.get_weights())
    assert relative_error(*results) < 1e-5  # float32, through BatchNorm
    if keras.backend.backend() == "jax":
        import jax

        program, state = model.train_function, model._take_state(True)
        values = [variable.value for variable in program._inputs]
        jaxpr = jax.make_jaxpr(program._step)(values, state, (x, y)).jaxpr
        found = list_convolutions(jaxpr)
        assert len(found) > 8
        if jax.default_backend() == "cpu":
            order = (0, 3, 1, 2)
            assert {axes.lhs_spec for axes in found} == {order}
            assert {axes.out_spec for axes in found} == {order}
            assert {axes.rhs_spec for axes in found} == {(3, 2, 0, 1)}


def test_every_method_is_in_the_battery():
    tested = {type(case.build()).__name__ for case in (CASES | RANDOM).values()}
    assert {*CLASSES.values()} <= tested


@pytest.mark.parametrize(
    "optimizer", [keras.optimizers.SGD, keras.optimizers.RMSprop], ids=["sgd", "rms"]
)
def test_momentum_sam_needs_momentum(optimizer):
    case = CASES["msam"]._replace(optimizer=lambda: optimizer(RATE))
    with pytest.raises(ValueError, match=r"needs an optimizer with momentum.*Received"):
        compile_case(case).train_on_batch(X, Y)


def test_what_passes_the_optimizer_by_is_under_its_constraints_too():
    """And is not accumulated as its gradients are, which is said."""
    case = CASES["wsam"]
    model = build_problem("one_tensor")
    (weight,) = model.trainable_variables
    weight.constraint = keras.constraints.NonNeg()
    model.compile(case.optimizer(), "mse", method=case.build())
    model.train_on_batch(X, Y)  # to -0.84 without
    np.testing.assert_allclose(point(model), (2.43, 0.0), rtol=1e-6)
    decoupled, coupled = (
        compile_case(
            CASES[name],
            optimizer=keras.optimizers.SGD(RATE, gradient_accumulation_steps=2),
        )
        for name in ("wsam", "wsam_coupled")
    )
    with pytest.raises(ValueError, match=r"WSAM .* no gradient_accumulation_steps"):
        decoupled.train_on_batch(X, Y)
    coupled.train_on_batch(X, Y)
