"""The numbers of a method are inputs of the compiled step: it is compiled once for all
their values, and for models that differ in them."""

import copy
import functools
import pickle

import keras
import numpy as np
import pytest
from keras.optimizers.schedules import PiecewiseConstantDecay

import samkeras
from samkeras.data.examples import ArrayExamples
from samkeras.experiment.options.methods import CLASSES
from samkeras.hyperparameter import numbers_of
from tests.helpers import (
    build_classifier,
    compile_classifier,
    random_examples,
    relative_error,
    train,
)

# Under which four steps depend on all numbers.
OPTIONS = {"LookSAM": {"every": 2}}
KINDS = sorted({*CLASSES.values()})
WITH_OTHERS = [k for k in KINDS if numbers_of(getattr(samkeras, k)) != ["rho"]]


def build(kind: str, **numbers) -> samkeras.SAMModel:
    """A compiled model, always the same but for its method's numbers."""
    return build_with(getattr(samkeras, kind)(**OPTIONS.get(kind, {}), **numbers))


def build_with(method: samkeras.Method, **options) -> samkeras.SAMModel:
    """A compiled model, always the same but for its method."""
    keras.utils.set_random_seed(0)
    options = {"steps_per_execution": 4, **options}
    model = compile_classifier(build_classifier(), method=method, **options)
    model.build_for(random_examples(16))
    return model


def take_rows():
    """Four batches that the device has."""
    examples = ArrayExamples(*random_examples(64), is_resident=True)
    batches = examples.batches(16, seed=0)
    batches.start_epoch(0)
    return next(iter(batches.take(4)))


def capture(model) -> list[np.ndarray]:
    lists = model.state().values()
    return [keras.ops.convert_to_numpy(v) for variables in lists for v in variables]


def restore(model, values: list[np.ndarray]) -> None:
    variables = [v for variables in model.state().values() for v in variables]
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def list_values(kind: str) -> list[dict[str, float]]:
    """Numbers of a method: its own, and with each of them another."""
    method = build_method(kind)
    own = {name: getattr(method, name) for name in numbers_of(type(method))}
    others = {name: value / 2 or 9.0 for name, value in own.items()}
    return [own, *({**own, name: value} for name, value in others.items()), others]


@functools.cache
def build_method(kind: str) -> samkeras.Method:
    return getattr(samkeras, kind)()


@functools.cache
def train_each(kind: str) -> list[list[np.ndarray]]:
    """The weights of each of `list_values`, by one model whose numbers are assigned."""
    first, *rest = list_values(kind)
    model, weights = build(kind, **first), []
    start = capture(model)
    for number, values in enumerate((first, *rest)):
        restore(model, start)
        for name, value in values.items():
            setattr(model.method, name, value)
        model.train_on_batches(take_rows())
        weights.append(model.get_weights())
        if number == 0:
            num_programs = model.count_programs()
    assert model.count_programs() == num_programs > 0
    return weights


@pytest.mark.parametrize(
    "kind",
    [
        kind
        if kind in ("ASAM", "WSAM")
        else pytest.param(kind, marks=pytest.mark.slow_on_tensorflow)
        for kind in WITH_OTHERS
    ],
)
def test_a_number_acts_without_recompiling(kind):
    """Each of them; all together as in a model that was compiled with them."""
    first, *others = train_each(kind)
    for values, weights in zip(list_values(kind)[1:], others, strict=True):
        assert relative_error(weights, first) > 1e-6, values
    fresh = build(kind, **list_values(kind)[-1])
    fresh.train_on_batches(take_rows())
    assert relative_error(fresh.get_weights(), others[-1]) < 1e-7


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="models train together on JAX"
)
@pytest.mark.parametrize(
    ("kind", "at_once"), [("ASAM", False), *((kind, True) for kind in WITH_OTHERS)]
)
def test_models_that_differ_in_numbers_are_one_program(kind, at_once, monkeypatch):
    """One after the other, as on a CPU, and by vmap: each takes the steps that it takes
    alone."""
    from samkeras.backend import jax as backend

    if at_once:
        monkeypatch.setattr(backend, "map_each", backend.map_at_once)
    models = [build(kind, **values) for values in list_values(kind)]
    rows = take_rows()
    models[0].take_together(models, [rows] * len(models), True)
    assert models[0].count_programs() == 1
    for model, weights in zip(models, train_each(kind), strict=True):
        assert relative_error(model.get_weights(), weights) < 1e-6


@pytest.mark.one_backend
def test_every_argument_that_is_a_plain_number_is_an_input():
    """All others decide what the program is: choices, counts, norms, and the shares of
    examples that ESAM takes, and of weights that SSAM does not perturb."""
    found = {kind: numbers_of(getattr(samkeras, kind)) for kind in KINDS}
    assert all(numbers[0] == "rho" for numbers in found.values())
    assert {kind: numbers[1:] for kind, numbers in found.items() if numbers[1:]} == {
        "AESAM": ["threshold", "ema_decay"],
        "ASAM": ["eta"],
        "DetSAM": ["lam"],
        "ESAM": ["beta"],
        "FSAM": ["sigma", "ema_decay"],
        "FrobeniusSAM": ["lam"],
        "GNP": ["alpha"],
        "GSAM": ["alpha"],
        "LookSAM": ["alpha"],
        "TraceSAM": ["lam"],
        "UnifiedSAM": ["lam"],
        "VaSSO": ["theta"],
        "WSAM": ["gamma"],
    }


def test_a_number_is_what_was_given():
    """Not what float32 makes of it; unless its variable is assigned by itself."""
    method = samkeras.ASAM(0.1, eta=0.3)
    assert (method.rho, method.eta) == (0.1, 0.3)
    assert method.get_config() == {"rho": 0.1, "eta": 0.3, "p": 2.0}
    method.eta = 0.7
    assert method.eta == 0.7
    for variable in method.variables:
        variable.assign(0.25)
    assert (method.rho, method.eta) == (0.25, 0.25)


def test_a_number_follows_a_schedule():
    """In the middle of four steps."""
    schedule = PiecewiseConstantDecay([1], [0.25, 1.5])
    model = build("GSAM", alpha=schedule)
    other = build("GSAM", alpha=0.25)
    model.train_on_batches(take_rows())
    other.train_on_batches(take_rows()[:2])
    other.method.alpha = 1.5
    other.train_on_batches(take_rows()[2:])
    assert relative_error(model.get_weights(), other.get_weights()) < 1e-6
    config = keras.saving.serialize_keras_object(model.method)
    again = keras.saving.deserialize_keras_object(config)
    assert again.alpha.get_config() == schedule.get_config()
    with pytest.raises(ValueError, match=r"alpha follows a schedule.*Received"):
        model.method.alpha = 0.5


class Asking(samkeras.GSAM):
    """Which computes with its number by `number`."""

    def combine(self, context, perturbed):
        return [self.number(context, "alpha") * g for g in perturbed]

    def split(self, context, result):
        alpha = self.number(context, "alpha")
        return result, [alpha * g for g in context.gradient]


class Reading(samkeras.GSAM):
    """The same, by its attribute."""

    def combine(self, context, perturbed):
        return [self.alpha * g for g in perturbed]

    def split(self, context, result):
        return result, [self.alpha * g for g in context.gradient]


def test_an_attribute_in_a_step_is_an_input():
    """Another one acts, without recompiling, and elsewhere it is what was given."""
    asking, reading = (build_with(kind(alpha=0.3)) for kind in (Asking, Reading))
    for alpha in (0.6, 0.2):
        for model in (asking, reading):
            model.train_on_batches(take_rows())
            model.method.alpha = alpha
            assert model.method.alpha == alpha
        assert relative_error(reading.get_weights(), asking.get_weights()) < 1e-7
    assert reading.count_programs() == 1
    reading.train_on_batches(take_rows())
    asking.method.alpha = 0.6
    asking.train_on_batches(take_rows())
    assert relative_error(reading.get_weights(), asking.get_weights()) > 1e-6


@pytest.mark.parametrize("options", [{"m_sharpness": 4}, {"run_eagerly": True}])
def test_an_attribute_in_a_step_follows_its_schedule(options):
    schedule = PiecewiseConstantDecay([1], [0.25, 1.5])
    options |= {"steps_per_execution": 1}
    models = [build_with(kind(alpha=schedule), **options) for kind in (Asking, Reading)]
    for model in models:
        train(model, *random_examples(48))
    asked, read = (model.get_weights() for model in models)
    assert relative_error(read, asked) < 1e-7


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="models train together on JAX"
)
@pytest.mark.parametrize("at_once", [False, True])
def test_an_attribute_in_a_step_is_that_of_its_model(at_once, monkeypatch):
    from samkeras.backend import jax as backend

    if at_once:
        monkeypatch.setattr(backend, "map_each", backend.map_at_once)
    alphas, rows = (0.3, 0.6), take_rows()
    models = [build_with(Reading(alpha=alpha)) for alpha in alphas]
    models[0].take_together(models, [rows] * 2, True)
    for model, alpha in zip(models, alphas, strict=True):
        alone = build_with(Asking(alpha=alpha))
        alone.train_on_batches(rows)
        assert relative_error(model.get_weights(), alone.get_weights()) < 1e-6


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has float32 alone")
def test_an_attribute_in_a_step_is_of_the_weights_type():
    """TensorFlow multiplies no float64 by float32."""
    with_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        model = build_with(Reading(alpha=0.3))
    finally:
        keras.config.set_dtype_policy(with_policy)
    model.train_on_batches(take_rows())
    assert np.isfinite(model.get_weights()[0]).all()


class Constant(samkeras.ASAM):
    """Which has a plain number in the place of ASAM's."""

    eta = 0.2

    def __init__(self, rho=0.05):
        samkeras.Perturbation.__init__(self, rho)
        self.p = 2.0


def test_a_plain_number_is_a_constant():
    model, other = build_with(Constant(0.1)), build("ASAM", rho=0.1, eta=0.2)
    for each in (model, other):
        each.train_on_batches(take_rows())
    assert relative_error(model.get_weights(), other.get_weights()) < 1e-7


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("share", AttributeError, r"Asker\.__init__ has set no share"),
        ("shair", AttributeError, "Asker has no number shair; did you mean share\\?"),
        ("zz", AttributeError, r"Asker has no number zz(\n|$)"),
        ("word", TypeError, "word must be .*Received: word='a'"),
    ],
)
def test_a_number_that_is_none_is_named_in_a_step(name, error, message):
    class Asker(samkeras.Perturbation):
        share, word = samkeras.Number(), "a"

        def gradients(self, context):
            return [self.number(context, name) * g for g in context.gradient]

    with pytest.raises(error, match=f"^{message}"):
        build_with(Asker()).train_on_batches(take_rows())


class Own(samkeras.Perturbation):
    """A user's, as `Number` shows one."""

    share = samkeras.Number("a number from 0 to 1", lambda x: 0 <= x <= 1)

    def __init__(self, rho=0.05, share=0.5):
        super().__init__(rho)
        self.share = share


@pytest.mark.parametrize("kind", [*KINDS, "Own"])
def test_a_method_is_copied_and_pickled(kind):
    method = Own() if kind == "Own" else getattr(samkeras, kind)()
    for again in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        assert type(again) is type(method)
        assert again.get_config() == method.get_config()
        again.rho = 0.7
        assert (again.rho, method.rho) == (0.7, type(method)().rho)
        with pytest.raises(ValueError, match="rho must be"):
            again.rho = -1.0


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: samkeras.SAM(1e39), "rho"),
        (lambda: samkeras.ASAM(eta=10**39), "eta"),
        (lambda: samkeras.ASAM(eta=10**400), "eta"),
        (lambda: samkeras.ASAM(eta=10**5000), "eta"),
        (lambda: samkeras.AESAM(threshold=-1e39), "threshold"),
        (lambda: build_classifier().compile("sgd", "mse", l2=1e39), "l2"),
    ],
)
def test_what_is_infinite_in_float32_is_refused(build, name):
    message = f"^{name} must be finite in float32. Received: {name}=.{{,50}}$"
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: samkeras.SAM(float("inf")), "rho must be a finite number"),
        (lambda: samkeras.SAM(float("nan")), "rho must be a finite number"),
        (lambda: samkeras.ESAM(gamma=10**400), "gamma must be a number > 0 and"),
    ],
)
def test_what_is_infinite_is_refused(build, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        build()


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: samkeras.ASAM(eta="0.1"), TypeError, "eta must be a number or a"),
        (lambda: samkeras.GSAM(alpha=True), TypeError, "alpha must be a number or a"),
        (lambda: samkeras.UnifiedSAM(lam=None), TypeError, "lam must be a number or"),
        # Of which float32 makes 1, and 0.
        (lambda: samkeras.WSAM(gamma=1 - 1e-9), ValueError, "gamma must be .* float32"),
        (lambda: samkeras.VaSSO(theta=1e-60), ValueError, "theta must be .* float32"),
    ],
)
def test_what_is_no_such_number_is_refused(build, error, message):
    with pytest.raises(error, match=f"^{message}.*Received: "):
        build()


@pytest.mark.one_backend
def test_a_refused_number_leaves_the_old_one():
    method = samkeras.FSAM(ema_decay=0.5)
    with pytest.raises(ValueError, match=r"^ema_decay must .*Received: ema_decay=1.5"):
        method.ema_decay = 1.5
    assert method.ema_decay == 0.5


@pytest.mark.one_backend
def test_a_number_that_nobody_set_is_named():
    class Forgetful(samkeras.Perturbation):
        share = samkeras.Number()

    with pytest.raises(AttributeError, match=r"Forgetful\.__init__ has set no share"):
        _ = Forgetful().share
