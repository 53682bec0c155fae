"""Plain training, several steps in one compiled call, and no recompilation."""

from dataclasses import dataclass

import keras
import numpy as np
import pytest
from keras.optimizers.schedules import PiecewiseConstantDecay

import samkeras
from samkeras.data.examples import ArrayExamples
from tests.helpers import (
    CLASSES,
    batches_of,
    build_classifier,
    compile_classifier,
    random_examples,
    relative_error,
    train,
)

on_jax = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="keras fuses the steps on TensorFlow"
)


class CountingModel(samkeras.SAMModel):
    """Counts how often its training step is traced."""

    num_traces = 0

    def train_step(self, *args):
        self.num_traces += 1
        return super().train_step(*args)


@dataclass
class Run:
    """What a training left: its model, the history and a last evaluation."""

    model: keras.Model
    history: dict[str, list[float]]
    evaluation: float


def train_twin(model_class=samkeras.SAMModel, **kwargs) -> Run:
    """Two epochs of 7 batches, the last one of 4, of a model that starts as its twins
    do; `kwargs` go to compile."""
    keras.utils.set_random_seed(3)
    x, y = random_examples(100)
    model = build_classifier(model_class, dropout=0.3, norm=True)
    compile_classifier(model, **kwargs)
    history = train(model, x, y, epochs=2, validation_data=(x, y))
    return Run(model, history, model.evaluate(x, y, batch_size=16, verbose=0))


@pytest.fixture(scope="module")
def plain_run() -> Run:
    return train_twin(keras.Model)


def assert_same_training(run: Run, expected: Run) -> None:
    """Weights to 1e-6 and logs to 1e-5: one program of several steps may round
    differently from several of one."""
    error = relative_error(run.model.get_weights(), expected.model.get_weights())
    assert error < 1e-6
    assert {*run.history} == {*expected.history}
    for name, values in expected.history.items():
        assert run.history[name] == pytest.approx(values, rel=1e-5), name
    assert run.evaluation == pytest.approx(expected.evaluation, rel=1e-5)


def test_without_perturbation_training_is_plain_keras_to_the_bit(plain_run):
    """method=None and l2=0 give keras.Model's weights, with dropout and norm."""
    run = train_twin(method=None, l2=0)
    weights = zip(run.model.get_weights(), plain_run.model.get_weights(), strict=True)
    for actual, expected in weights:
        np.testing.assert_array_equal(actual, expected)
    assert run.history == plain_run.history
    assert run.evaluation == plain_run.evaluation


def test_rho_of_zero_is_plain_keras(plain_run):
    """rho = 0 perturbs by nothing: the same dropout draws in both passes, and the same
    in all steps as plain training's."""
    run = train_twin(method=samkeras.SAM(0.0))
    # 1e-7: a compiler may order the second pass' sums differently from the first's.
    weights = plain_run.model.get_weights()
    assert relative_error(run.model.get_weights(), weights) < 1e-7
    assert run.history["grad_cosine"] == pytest.approx([1, 1], abs=1e-6)
    assert run.history["loss"] == pytest.approx(plain_run.history["loss"], rel=1e-6)


def test_fused_sam_steps_give_the_same_weights_and_logs():
    """Calls of 3 steps train as single ones do: with dropout, norm, an uneven rest and
    a last batch that is smaller."""
    single, fused = (
        train_twin(method=samkeras.SAM(0.5), steps_per_execution=steps)
        for steps in (1, 3)
    )
    assert_same_training(fused, single)


def test_fused_plain_steps_give_the_same_weights_and_logs(plain_run):
    """Several steps a call need no perturbation."""
    assert_same_training(train_twin(steps_per_execution=3), plain_run)


@pytest.mark.parametrize("jit_compile", [True, "auto"])
def test_steps_on_batches_are_those_of_fit(jit_compile):
    """Handed in parts of up to three, and one of five, the last batch smaller: weights,
    logs, and those of an evaluation."""
    kwargs = {"steps_per_execution": 3, "jit_compile": jit_compile}
    kwargs["method"] = samkeras.SAM(0.5)
    fitted = train_twin(**kwargs)
    keras.utils.set_random_seed(3)
    x, y = random_examples(100)
    model = build_classifier(dropout=0.3, norm=True)
    compile_classifier(model, **kwargs)
    batches = batches_of(x, y)
    for _ in range(2):
        model.reset_metrics()
        for part in (batches[:5], batches[5:]):
            model.train_on_batches(part)
    logs = {**model.get_metrics_result(), **model.get_gradient_metrics_result()}
    model.reset_metrics()
    for part in (batches[:3], batches[3:4], batches[4:]):
        model.test_on_batches(part)
    got = {name: [float(value)] for name, value in logs.items()}
    evaluation = float(model.get_metrics_result()["loss"])
    last = {name: fitted.history[name][1:] for name in got}
    assert_same_training(
        Run(model, got, evaluation), Run(fitted.model, last, fitted.evaluation)
    )


@on_jax
@pytest.mark.parametrize("name", ["sam", "looksam"])
def test_models_at_once_skip_the_passes_that_none_of_them_makes(name, monkeypatch):
    """As on a GPU, by one program of all: of two models and four steps every second has
    a second pass. They take the steps of one alone."""
    import jax

    from samkeras.backend import jax as backend

    passes = []

    class Noted(keras.layers.Layer):
        def call(self, inputs):
            jax.debug.callback(lambda: passes.append(1))
            return inputs

    def build() -> keras.Model:
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(4), Noted(), keras.layers.Dense(CLASSES)]
        inputs = keras.Input(x.shape[1:])
        outputs = inputs
        for layer in layers:
            outputs = layer(outputs)
        kinds = {"sam": samkeras.SAM, "looksam": samkeras.LookSAM}
        model = samkeras.SAMModel(inputs, outputs)
        method = kinds[name](0.1, every=2)
        return compile_classifier(model, steps_per_execution=4, method=method)

    x, y = random_examples(64)
    batches = ArrayExamples(x, y, is_resident=True).batches(16, seed=0)
    batches.start_epoch(0)
    (rows,) = batches.take(4)
    alone, *both = (build() for _ in range(3))
    alone.train_on_batches(rows)
    monkeypatch.setattr(backend, "map_each", backend.map_at_once)
    passes.clear()
    both[0].take_together(both, [rows, rows], True)
    jax.effects_barrier()
    assert len(passes) == 4 + 2  # once for both models
    for model in both:
        assert relative_error(model.get_weights(), alone.get_weights()) < 1e-5


class Counting(samkeras.SAMModel):
    """Logs something of its own, which no metric holds: a batch's labels' sum."""

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        return {**logs, "labels": keras.ops.sum(y)}


@pytest.fixture
def counting():
    """A model that logs something of its own."""
    kwargs = {"steps_per_execution": 3, "method": samkeras.SAM(0.5)}
    return compile_classifier(build_classifier(Counting), **kwargs)


def test_what_a_class_logs_of_its_own_is_of_the_last_step(counting):
    """In fit, where several steps are one call."""
    x, y = random_examples(96)
    history = counting.fit(x, y, batch_size=32, shuffle=False, verbose=0).history
    assert history["labels"] == [np.sum(y[64:])]
    assert "loss" in history


@on_jax
def test_a_loop_over_the_devices_data_gives_what_a_class_logs(counting):
    x, y = random_examples(96)
    batches = ArrayExamples(x, y, is_resident=True).batches(32, seed=0)
    batches.start_epoch(0)
    last = int(np.sum(batches[2][1]))
    (rows,) = batches.take(3)
    for function in (counting.train_on_batches, counting.test_on_batches):
        assert int(function(rows)["labels"]) == last


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_batches_may_lack_weights_and_steps_run_eagerly(run_eagerly):
    """(x, y, None) is (x, y); eager steps are called one by one."""
    calls = []

    class Counted(samkeras.SAMModel):
        def train_step(self, *args):
            calls.append(args)
            return super().train_step(*args)

    x, y = random_examples(64)
    model = compile_classifier(
        build_classifier(Counted), steps_per_execution=2, run_eagerly=run_eagerly
    )
    model.train_on_batches([(*batch, None) for batch in batches_of(x, y)])
    assert int(model.optimizer.iterations) == 4
    assert (len(calls) == 4) == run_eagerly


def train_perceptron(x, y=None, *, model_class=samkeras.SAMModel, steps=1, **kwargs):
    """One epoch of a small model, SAM with l2, no momentum; returns the model."""
    keras.utils.set_random_seed(3)
    model = build_classifier(model_class)
    compile_classifier(
        model,
        optimizer=samkeras.SGD(0.2),
        method=samkeras.SAM(0.5),
        l2=0.1,
        steps_per_execution=steps,
    )
    train(model, x, y, **kwargs)
    return model


def endless_batches(x, y):
    while True:
        yield from batches_of(x, y)


class PyBatches(keras.utils.PyDataset):
    """The batches by number, as a user's own loader gives them."""

    def __init__(self, x, y):
        super().__init__()
        self.batches = batches_of(x, y)

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


@pytest.fixture(scope="module")
def perceptron_weights() -> list:
    """After one epoch of 6 batches from arrays, step by step."""
    return train_perceptron(*random_examples(96)).get_weights()


@pytest.mark.parametrize(
    ("feed", "kwargs"),
    [
        (endless_batches, {"steps": 3, "steps_per_epoch": 3, "epochs": 2}),
        (PyBatches, {"steps": 3}),
        (PyBatches, {"steps": 32}),
    ],
    ids=["generator", "py_dataset", "more_steps_than_batches"],
)
def test_fused_steps_take_each_batch_once(feed, kwargs, perceptron_weights):
    """Generators with steps_per_epoch and PyDatasets are read in order, to the end."""
    feed = feed(*random_examples(96))
    fused = train_perceptron(feed, batch_size=None, **kwargs)
    # 1e-6: another program may round differently.
    assert relative_error(fused.get_weights(), perceptron_weights) < 1e-6


def test_batches_of_different_shapes_are_not_fused():
    """Lengths may change from batch to batch, in the middle of a call's batches too."""
    rng = np.random.default_rng(0)
    batches = [
        (
            rng.standard_normal((4, length, 2)).astype("float32"),
            rng.integers(0, CLASSES, 4),
        )
        for length in (3, 5, 3)
    ]

    def train_with(**kwargs):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((None, 2))
        pooled = keras.layers.GlobalAveragePooling1D()(inputs)
        model = samkeras.SAMModel(inputs, keras.layers.Dense(CLASSES)(pooled))
        compile_classifier(model, method=samkeras.SAM(0.5), **kwargs)
        feed = (batch for batch in batches)
        model.fit(feed, steps_per_epoch=3, shuffle=False, verbose=0)
        return model.get_weights()

    fused, single = train_with(steps_per_execution=3), train_with(run_eagerly=True)
    assert relative_error(fused, single) < 1e-6  # compiled or not


def test_changed_hyperparameters_act_without_retracing():
    """rho, l2 and the learning rate are read by the compiled step, not built into it.

    7 batches make a fused call of 4 and 3 single ones. After the change training goes
    on as a model does that never knew other values.
    """
    x, y = random_examples(100)
    model = train_perceptron(x, y, model_class=CountingModel, steps=4)
    num_traces, before = model.num_traces, model.get_weights()
    model.method.rho = 0.05
    model.l2 = 0.01
    model.optimizer.learning_rate = 0.02
    train(model, x, y)
    assert model.num_traces == num_traces > 0

    fresh = build_classifier()
    fresh.set_weights(before)
    perturbation, optimizer = samkeras.SAM(0.05), samkeras.SGD(0.02)
    compile_classifier(fresh, optimizer=optimizer, method=perturbation, l2=0.01)
    train(fresh, x, y)
    assert relative_error(model.get_weights(), fresh.get_weights()) < 1e-6  # float32


@on_jax
def test_changed_hyperparameters_compile_nothing(caplog):
    """XLA compiles no program again for a new rho, l2 or learning rate."""
    import jax

    x, y = random_examples(64)
    model = train_perceptron(x, y, steps=2)
    model.method.rho = 0.05  # an assignment may compile a conversion, once
    with jax.log_compiles():
        train(model, x, y)
        model.method.rho = 0.25
        model.l2 = 0.01
        model.optimizer.learning_rate = 0.02
        train(model, x, y)
        assert "Compiling" not in caplog.text
        jax.jit(lambda a: a + 1)(1.0)
        assert "Compiling" in caplog.text  # so that the line above can fail


def test_schedules_follow_the_optimizer_s_steps():
    """Schedules for rho and l2 give step t the values that assigning them would."""
    boundaries = [1, 3]  # a boundary's step still has the value before it
    radii, decays = [0.5, 0.5, 0.1, 0.1, 0.9], [0.2, 0.2, 0.4, 0.4, 0.1]
    scheduled = compile_classifier(
        build_classifier(),
        method=samkeras.SAM(PiecewiseConstantDecay(boundaries, [0.5, 0.1, 0.9])),
        l2=PiecewiseConstantDecay(boundaries, [0.2, 0.4, 0.1]),
        steps_per_execution=5,
    )
    assigned = compile_classifier(build_classifier(), method=samkeras.SAM(0.0), l2=1.0)
    assigned.set_weights(scheduled.get_weights())
    x, y = random_examples(80)
    train(scheduled, x, y)
    for rho, l2, batch in zip(radii, decays, batches_of(x, y), strict=True):
        assigned.method.rho, assigned.l2 = rho, l2
        assigned.train_on_batch(*batch)
    # 1e-6: another program may round differently.
    assert relative_error(scheduled.get_weights(), assigned.get_weights()) < 1e-6


@pytest.fixture
def scans(monkeypatch) -> list:
    """Filled with an entry for each loop that is traced on JAX."""
    import jax

    calls, scan = [], jax.lax.scan

    def spy(*args, **kwargs):
        calls.append(args)
        return scan(*args, **kwargs)

    monkeypatch.setattr(jax.lax, "scan", spy)
    return calls


@on_jax
def test_dense_steps_are_fused_into_one_loop(scans):
    """Four epochs of 7 batches trace the step once: to look for convolutions, for the
    loop of full calls and for the rest."""
    x, y = random_examples(112)
    model = train_perceptron(x, y, model_class=CountingModel, steps=3, epochs=4)
    assert len(scans) == 1
    assert model.num_traces == 1


@on_jax
def test_convolutions_on_cpu_step_aside(scans):
    """XLA's CPU convolutions are slow inside loops: such steps run one at a time."""
    import jax

    if jax.default_backend() != "cpu":
        pytest.skip("accelerators fuse convolutions too")
    images = np.random.default_rng(0).standard_normal((48, 4, 4, 1)).astype("float32")
    labels = np.arange(48) % CLASSES

    def train_with(steps):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((4, 4, 1))
        features = keras.layers.Flatten()(keras.layers.Conv2D(2, 3)(inputs))
        model = samkeras.SAMModel(inputs, keras.layers.Dense(CLASSES)(features))
        compile_classifier(model, method=samkeras.SAM(), steps_per_execution=steps)
        train(model, images, labels, batch_size=8)
        return model.get_weights()

    fused, single = train_with(4), train_with(1)
    assert not scans
    assert relative_error(fused, single) < 1e-7  # the same program, step by step
