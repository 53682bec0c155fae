"""What methods see and keep: weights, roles and state of their own."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import samkeras
from tests.helpers import (
    batches_of,
    build_classifier,
    compile_classifier,
    norm,
    perceptron_gradients,
    random_examples,
    relative_error,
    train,
    weights_float64,
)
from tests.library.test_family import CASES, X, Y, build_problem, compile_case, follow

RHO, RATE = 0.5, 0.1


@pytest.mark.parametrize("save", ["weights", "state"])
@pytest.mark.parametrize("name", ["fsam", "fsam_paper", "fsam_paper_half"])
def test_a_method_goes_on_where_it_was(name, save, tmp_path):
    """Saved after the first step as weights and as what state() has."""
    case = CASES[name]
    model, loaded = compile_case(case), compile_case(case)
    follow(model, case.steps[:1])
    loaded.build_for((X, Y))
    if save == "weights":
        model.save_weights(tmp_path / "m.weights.h5")
        loaded.load_weights(tmp_path / "m.weights.h5")
    else:
        for part, variables in model.state().items():
            for new, old in zip(loaded.state()[part], variables, strict=True):
                new.assign(ops.convert_to_numpy(old))
    follow(loaded, case.steps[1:])


def test_groups_are_perturbed_by_one_mean_which_their_mean_gradient_moves():
    """Against the formula in NumPy, over groups of 5, 5 and 2 examples; masks leave
    what they hide out of both."""
    x, y = random_examples(24)
    model = compile_classifier(
        build_classifier(),
        optimizer=keras.optimizers.SGD(0.2),
        method=samkeras.FSAM(RHO, sigma=0.75, ema_decay=0.6),
        m_sharpness=5,
    )
    rng = np.random.default_rng(0)
    masks = [rng.random(w.shape) < 0.6 for w in model.trainable_variables]
    model.set_masks(list(zip(model.trainable_variables, masks, strict=True)))
    weights = weights_float64(model)
    mean = [np.zeros_like(w) for w in weights]

    def differentiate(at, x, y):
        gradients = perceptron_gradients(at, x, y)
        return [g * m for g, m in zip(gradients, masks, strict=True)]

    for step, (bx, by) in enumerate(batches_of(x, y, 12)):
        total = [np.zeros_like(w) for w in weights]
        for start, end in [(0, 5), (5, 10), (10, 12)]:
            group = bx[start:end], by[start:end]
            d = [
                g - 0.75 * m
                for g, m in zip(differentiate(weights, *group), mean, strict=True)
            ]
            moved = [w + RHO * e / norm(d) for w, e in zip(weights, d, strict=True)]
            gradients = differentiate(moved, *group)
            share = (end - start) / 12
            total = [t + share * g for t, g in zip(total, gradients, strict=True)]
        gradients = differentiate(weights, bx, by)
        decay = 0.6 if step else 0.0
        mean = [
            decay * m + (1 - decay) * g for m, g in zip(mean, gradients, strict=True)
        ]
        weights = [w - 0.2 * t for w, t in zip(weights, total, strict=True)]
        model.train_on_batch(bx, by)
        assert relative_error(model.get_weights(), weights) < 1e-6  # float32
        _, *state = [ops.convert_to_numpy(v) for v in model.method.state]
        assert relative_error(state, mean) < 1e-6


@keras.saving.register_keras_serializable(package="tests")
class Counting(samkeras.SAM):
    """SAM that counts its steps, and multiplies something by three in each."""

    def build(self, weights, roles):
        self.count = self.add_state((), "count", "int32")
        self.power = self.add_state((), "power")
        self.roles = roles

    def update(self, context, result):
        self.count.assign_add(1)
        self.power.assign(3 * self.power + 1)


MODES = {
    "compiled": {},
    "eager": {"run_eagerly": True},
    "fused": {"steps_per_execution": 3},
    "groups": {"m_sharpness": 3},
    "l2": {"l2": 0.1},
    "accumulated": {},
}


@pytest.mark.parametrize(
    ("mode", "is_pruned"),
    [*((mode, False) for mode in MODES), ("compiled", True), ("groups", True)],
)
def test_a_method_counts_its_steps_alike_everywhere(mode, is_pruned):
    model = build_classifier(dropout=0.5, norm=True)
    accumulated = 2 if mode == "accumulated" else None
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=accumulated)
    compile_classifier(model, optimizer=optimizer, method=Counting(0.1), **MODES[mode])
    if is_pruned:
        kernel = model.trainable_variables[0]
        model.set_masks([(kernel, np.eye(*kernel.shape) > 0)])
    for epochs in (1, 2):
        train(model, *random_examples(50), epochs=epochs, batch_size=10)
    assert int(model.method.count) == 15
    assert float(model.method.power) == pytest.approx((3**15 - 1) / 2, rel=1e-6)


def test_state_is_no_weight_and_makes_no_new_program():
    model = compile_classifier(build_classifier(), method=Counting(0.1))
    num_weights, num_parameters = len(model.weights), model.count_params()
    train(model, *random_examples(32))
    programs = model.count_programs()
    model.method.rho = 0.3
    train(model, *random_examples(32), epochs=2)
    assert model.count_programs() == programs
    assert (len(model.weights), model.count_params()) == (num_weights, num_parameters)
    assert model.state()["method"] == model.method.state


@pytest.mark.parametrize("scale", [2.0**140, 2.0**10], ids=["skipped", "taken"])
def test_a_skipped_step_leaves_the_state(scale):
    """Gradients that overflow are never a part of the mean, and it is of unscaled
    ones, of float32."""
    keras.config.set_dtype_policy("mixed_float16")
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=min(scale, 2.0**127)
    )
    model = build_classifier()
    x, y = random_examples(16)
    compile_classifier(model, optimizer=optimizer, method=samkeras.FSAM(0.1))
    weights = weights_float64(model)
    model.train_on_batch(x, y)
    has_mean, *means = [ops.convert_to_numpy(v) for v in model.method.state]
    assert {mean.dtype.name for mean in means} == {"float32"}
    if scale > 2.0**127:
        assert has_mean == 0
        assert norm(means) == 0
    else:
        assert has_mean == 1
        assert relative_error(means, perceptron_gradients(weights, x, y)) < 1e-2


def test_roles_are_those_of_layers():
    """By class: a bias by any name, both weights of a normalization, and kernels."""
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Embedding(9, 6)(inputs)
    x = layers.MultiHeadAttention(2, 3)(x, x)
    x = layers.LayerNormalization()(x)
    x = layers.Bidirectional(layers.LSTM(3))(x)
    x = layers.BatchNormalization()(x)
    model = samkeras.SAMModel(inputs, layers.Dense(2, name="gamma")(x))
    model.compile("sgd", "mse", method=Counting())
    model.build_for((np.zeros((2, 4), "int32"), np.zeros((2, 2), "float32")))
    for weight, role in zip(model.trainable_variables, model.method.roles, strict=True):
        kinds = {
            "embeddings": ("embedding", False),
            "bias": ("bias", True),
            "gamma": ("normalization", False),
            "beta": ("normalization", True),
        }
        assert role == kinds.get(weight.name, ("kernel", False)), weight.path
    assert {role.kind for role in model.method.roles} == {
        "embedding",
        "bias",
        "normalization",
        "kernel",
    }


class Careless(samkeras.SAM):
    """Assigns a variable that it has not declared."""

    def __init__(self, where):
        super().__init__(0.1)
        self.where = where
        self.count = keras.Variable(0.0, name="count")

    def epsilon(self, context):
        if self.where == "epsilon":
            self.count.assign_add(1.0)
        return super().epsilon(context)

    def update(self, context, result):
        if self.where == "update":
            self.count.assign_add(1.0)


class Idle(samkeras.Method):
    """Makes no pass."""

    def gradients(self, context):
        return context.weights


class Restless(samkeras.SAM):
    """Makes a pass too many."""

    def update(self, context, result):
        context.gradients_at(context.weights)


@pytest.mark.parametrize("run_eagerly", [False, True])
@pytest.mark.parametrize(
    ("build_method", "message"),
    [
        (lambda: Careless("epsilon"), r"Careless.gradients must assign no .*count"),
        (lambda: Careless("update"), r"Careless.update must assign its state .*count"),
        (Idle, r"Idle.gradients must make a pass"),
        (lambda: Restless(0.1), r"Restless.update must make no pass"),
    ],
    ids=["epsilon", "update", "idle", "restless"],
)
def test_what_a_method_must_not_do_is_refused(build_method, message, run_eagerly):
    model = compile_classifier(
        build_classifier(), method=build_method(), run_eagerly=run_eagerly
    )
    weights = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.train_on_batch(*random_examples(8))
    for weight, before in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(weight, before)


def test_a_method_with_state_is_of_one_model():
    method = samkeras.FSAM()
    model, other = build_classifier(), build_classifier()
    for _ in range(2):  # compiled anew it goes on with it
        compile_classifier(model, method=method)
        model.train_on_batch(*random_examples(8))
    compile_classifier(other, method=method)
    with pytest.raises(ValueError, match="weights to train, a FSAM of its own"):
        other.train_on_batch(*random_examples(8))
    shared = samkeras.ASAM()
    for _ in range(2):
        other = compile_classifier(build_classifier(), method=shared)
        other.train_on_batch(*random_examples(8))


def test_a_method_with_state_may_be_assigned_within_an_epoch():
    """It starts afresh at the next step; weights and momentum go on."""

    class Switch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 3:
                self.model.method = Counting(0.1)

    models = []
    for method in (samkeras.SAM(0.1), samkeras.FSAM(0.1, sigma=0.0)):
        keras.utils.set_random_seed(1)
        model = compile_classifier(build_classifier(), method=method)
        train(model, *random_examples(80), batch_size=10, callbacks=[Switch()])
        assert int(model.method.count) == 4
        models.append(model)
    keras.utils.set_random_seed(1)
    expected = compile_classifier(build_classifier(), method=samkeras.SAM(0.1))
    train(expected, *random_examples(80), batch_size=10)
    for model in models:
        weights = model.get_weights()
        assert relative_error(weights, expected.get_weights()) < 1e-6


def test_asam_follows_a_rescaling_of_the_weights():
    """With eta = 0 a kernel twice as large, whose inputs are half, has an epsilon twice
    as large."""
    epsilons = []
    for factor in (1, 2):
        model = build_problem("one_tensor")
        model.set_weights([factor * w for w in model.get_weights()])
        seen = []
        method = samkeras.ASAM(RHO, eta=0.0)
        find = method.epsilon

        def look(context, seen=seen, find=find):
            seen.append(find(context))
            return seen[-1]

        method.epsilon = look
        model.compile(keras.optimizers.SGD(0.0), "mse", method=method, run_eagerly=True)
        model.train_on_batch(X / factor, Y)
        epsilons.append(ops.convert_to_numpy(seen[0][0]))
    np.testing.assert_allclose(epsilons[1], 2 * epsilons[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "argument"),
    [
        (lambda: samkeras.ASAM(eta=-1.0), "eta"),
        (lambda: samkeras.ASAM(eta=float("nan")), "eta"),
        (lambda: samkeras.ASAM(p=3), "p"),
        (lambda: samkeras.FSAM(sigma=-1.0), "sigma"),
        (lambda: samkeras.FSAM(ema_decay=1.0), "ema_decay"),
        (lambda: samkeras.FSAM(order="text"), "order"),
        (lambda: samkeras.SAM(every=0), "every"),
        (lambda: samkeras.SAM(every=1.5), "every"),
        (lambda: samkeras.FSAM(start=-1), "start"),
        (lambda: samkeras.GSAM(alpha=-1.0), "alpha"),
        (lambda: samkeras.GNP(alpha=float("inf")), "alpha"),
        (lambda: samkeras.WSAM(gamma=1.0), "gamma"),
        (lambda: samkeras.LookSAM(alpha=-1.0), "alpha"),
        (lambda: samkeras.LookSAM(every=0), "every"),
        (lambda: samkeras.AESAM(threshold=float("nan")), "threshold"),
        (lambda: samkeras.AESAM(threshold=float("-inf")), "threshold"),
        (lambda: samkeras.AESAM(ema_decay=1.0), "ema_decay"),
    ],
)
def test_arguments_out_of_range_are_refused(build, argument):
    with pytest.raises(ValueError, match=rf"^{argument} must .*Received"):
        build()


def test_perturbation_is_still_taken_with_a_warning():
    model = build_classifier()
    with pytest.warns(DeprecationWarning, match="compile\\(method="):
        compile_classifier(model, perturbation=samkeras.SAM(0.25))
    assert model.method.rho == 0.25
    with pytest.raises(AttributeError, match=r"is now model\.method"):
        model.perturbation = samkeras.SAM(0.5)
    assert not hasattr(model, "perturbation")
    with (
        pytest.warns(DeprecationWarning, match="compile"),
        pytest.raises(ValueError, match="give one of method and perturbation"),
    ):
        compile_classifier(model, perturbation=samkeras.SAM(), method=samkeras.SAM())


@keras.saving.register_keras_serializable(package="tests")
class Anchored(samkeras.Perturbation):
    """Pulls the weights to where they were when it was built, by rho."""

    passes = 1.0

    def build(self, weights, roles):
        self.anchors = [self.add_state_like(w, "anchor") for w in weights]
        self.count = self.add_state((), "count")
        self.count.assign(5.0)
        for anchor, weight in zip(self.anchors, weights, strict=True):
            anchor.assign(weight)

    def gradients(self, context):
        pairs = zip(context.gradient, context.weights, self.anchors, strict=True)
        return [g + self.radius(context) * (w - a) for g, w, a in pairs]


def test_state_begins_as_build_assigns_it_and_rho_is_read_anew():
    model = compile_classifier(build_classifier(), method=Anchored(0.0))
    plain = compile_classifier(build_classifier())
    start = model.get_weights()
    plain.set_weights(start)
    for each in (model, plain):
        train(each, *random_examples(32))
    assert relative_error(model.get_weights(), plain.get_weights()) < 1e-6
    *anchors, count = model.method.state
    assert float(count) == 5
    for anchor, weight in zip(anchors, start, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(anchor), weight)
    model.method.rho = 1.0
    for each in (model, plain):
        train(each, *random_examples(32))
    assert relative_error(model.get_weights(), plain.get_weights()) > 1e-2


def test_a_backed_up_fit_goes_on_with_the_state(tmp_path):
    """keras' BackupAndRestore, of a model built by its functional call."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def fit(*callbacks):
        keras.utils.set_random_seed(1)
        model = compile_classifier(build_classifier(), method=samkeras.FSAM(0.3))
        train(model, *random_examples(), epochs=4, callbacks=callbacks)
        return model

    backup = keras.callbacks.BackupAndRestore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(backup, Stop())
    model, expected = fit(keras.callbacks.BackupAndRestore(tmp_path)), fit()
    for ours, theirs in zip(
        [*model.weights, *model.method.state],
        [*expected.weights, *expected.method.state],
        strict=True,
    ):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (ours, theirs)))


def test_saving_warns_of_nothing(tmp_path, recwarn):
    model = compile_classifier(build_classifier(), method=samkeras.FSAM())
    model.train_on_batch(*random_examples(8))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    loaded.load_weights(tmp_path / "m.weights.h5")
    assert not [w for w in recwarn if "samkeras" in str(w.message)]
    assert not [w for w in recwarn if "perturbation" in str(w.message)]


def test_state_in_a_weights_file_finds_its_weights(tmp_path):
    """Also into a model that is not built for training, and where other layers are
    frozen: what is a weight's stays its own."""

    def build(frozen):
        inputs = keras.Input((6,))
        hidden = layers.Dense(6)(layers.Dense(6)(inputs))
        model = samkeras.SAMModel(inputs, layers.Dense(6)(hidden))
        for i in frozen:
            model.layers[i].trainable = False
        model.compile("sgd", "mse", method=samkeras.FSAM())
        return model

    model = build(frozen=[3])
    x = np.random.default_rng(0).standard_normal((8, 6)).astype("float32")
    model.train_on_batch(x, x)
    model.save_weights(tmp_path / "m.weights.h5")
    _, *means = [ops.convert_to_numpy(v) for v in model.method.state]
    for frozen, expected in (([3], means), ([1], means[2:]), ([], means)):
        other = build(frozen)
        other.load_weights(tmp_path / "m.weights.h5")
        has_mean, *found = [ops.convert_to_numpy(v) for v in other.method.state]
        assert has_mean == 1
        for mean, value in zip(found, expected, strict=False):
            np.testing.assert_array_equal(mean, value)
        for mean in found[len(expected) :]:
            assert not mean.any()


class Signs(samkeras.Method):
    """Signs of a gradient, which are finite where it is not; not at w."""

    passes = 1.0

    def build(self, weights, roles):
        self.count = self.add_state((), "count", "int32")

    def gradients(self, context):
        return [
            ops.sign(g) for g in context.gradients_at([0 * w for w in context.weights])
        ]

    def update(self, context, result):
        self.count.assign_add(1)


def test_no_method_hides_an_overflow():
    keras.config.set_dtype_policy("mixed_float16")
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=2.0**127
    )
    model = compile_classifier(build_classifier(), optimizer=optimizer, method=Signs())
    weights = model.get_weights()
    model.train_on_batch(*random_examples(8))
    assert int(model.optimizer.iterations) == int(model.method.count) == 0
    for weight, before in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(weight, before)


def test_a_method_that_is_refused_leaves_the_old_one():
    model = compile_classifier(build_classifier(), method=samkeras.SAM(0.1))
    other = compile_classifier(build_classifier(), method=samkeras.FSAM(0.1))
    for each in (model, other):
        each.train_on_batch(*random_examples(8))
    with pytest.raises(ValueError, match="a FSAM of its own"):
        model.method = other.method
    assert isinstance(model.method, samkeras.SAM)
    model.train_on_batch(*random_examples(8))
    assert samkeras.SAMModel(model.inputs, model.outputs).state()["optimizer"] == []


class Wrong(samkeras.Method):
    """Returns what it was given."""

    def __init__(self, result, epsilon=None):
        self.result, self.at = result, epsilon

    def gradients(self, context):
        if self.at:
            context.gradients_at(self.at(context))
        return self.result(context.gradient)


class Late(samkeras.SAM):
    """Makes state where it is too late."""

    def update(self, context, result):
        self.add_state((), "late")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda: Wrong(lambda g: g[1:]), "Wrong's result must be a list of one"),
        (lambda: Wrong(lambda g: [ops.sum(t) for t in g]), "Wrong's result must be"),
        (lambda: Wrong(lambda g: [None, *g[1:]]), "Wrong's result must be"),
        (lambda: Wrong(lambda g: None), "Wrong's result must be"),
        (lambda: Wrong(list, lambda c: c.weights[1:]), "Wrong's epsilon must be"),
        (lambda: Late(0.1), "Late must make its state in build"),
    ],
)
def test_what_a_method_returns_is_checked(method, message):
    model = compile_classifier(build_classifier(), method=method())
    with pytest.raises(ValueError, match=message):
        model.train_on_batch(*random_examples(8))


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow mirrors variables"
)
def test_a_mirrored_model_is_saved(tmp_path):
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = compile_classifier(build_classifier(), method=samkeras.FSAM(0.25))
    train(model, *random_examples(32))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.method.rho == model.method.rho == 0.25
    for ours, theirs in zip(model.method.state, loaded.method.state, strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (ours, theirs)))


def test_a_file_of_version_0_1_is_read():
    """Its configs have the method's old name, in a module that is gone."""
    model = compile_classifier(build_classifier(), method=samkeras.SAM(0.25, p=3))
    config = model.get_compile_config()
    config["perturbation"] = {**config.pop("method"), "module": "samkeras.perturbation"}
    loaded = build_classifier()
    loaded.compile_from_config(config)
    assert loaded.method.get_config() == model.method.get_config()
