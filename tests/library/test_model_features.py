"""What keras offers a model in training, with the SAM step in its place.

Cases whose numbers do not depend on compilation run eagerly, which is faster here;
`test_eager_training_equals_compiled` holds the two together.
"""

import keras
import numpy as np
import pytest

import samkeras
from tests.helpers import (
    CLASSES,
    FEATURES,
    add,
    batches_of,
    build_classifier,
    compile_classifier,
    norm,
    perceptron_gradients,
    random_examples,
    relative_error,
    scale,
    train,
    weights_float64,
)

RHO = 0.5


def compute_sam_gradients(weights, x, y):
    """paper.md section 1 in float64: the gradients at w + rho g / ||g||."""
    gradients = perceptron_gradients(weights, x, y)
    perturbed = add(weights, scale(gradients, RHO / norm(gradients)))
    return perceptron_gradients(perturbed, x, y)


def sam_classifier(**kwargs) -> keras.Model:
    kwargs.setdefault("run_eagerly", True)
    kwargs.setdefault("optimizer", keras.optimizers.SGD(0.1))
    kwargs.setdefault("method", samkeras.SAM(RHO))
    return compile_classifier(build_classifier(), **kwargs)


def test_batch_statistics_are_the_first_pass_s():
    """BatchNorm's averages move once a step, towards the unperturbed weights' batch."""
    x, y = random_examples(16)
    model = build_classifier(norm=True)
    compile_classifier(model, method=samkeras.SAM(5.0, steps=2))
    kernel, bias = (np.asarray(w) for w in model.get_layer("hidden").get_weights())
    features = x @ kernel + bias
    train(model, x, y)
    _, _, mean, variance = model.get_layer("norm").get_weights()
    # 1e-5: float32 sums. They start at 0 and 1; the layer's momentum is 0.9.
    np.testing.assert_allclose(mean, 0.1 * features.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance, 0.9 + 0.1 * features.var(axis=0), rtol=1e-5)


def test_dropout_draws_once_a_step():
    """After three steps of three passes the seed has moved on by three."""
    model = build_classifier(dropout=0.5)
    compile_classifier(model, method=samkeras.SAM(RHO, steps=2))
    state = model.get_layer("dropout").seed_generator.state
    before = keras.ops.convert_to_numpy(state.value).copy()
    train(model, *random_examples(48))
    after = keras.ops.convert_to_numpy(state.value)
    np.testing.assert_array_equal(after, before + np.array([0, 3], before.dtype))


@pytest.mark.parametrize(
    ("build_method", "layers"),
    [
        (lambda: samkeras.UnnormalizedSAM(RHO), {"dropout": 0.3}),
        (lambda: samkeras.RandomPerturbation(RHO), {"norm": True}),
    ],
    ids=["dropout", "norm"],
)
def test_eager_training_equals_compiled(build_method, layers):
    """run_eagerly=True, for debugging, takes the same steps."""
    weights = []
    for run_eagerly in (True, False):
        keras.utils.set_random_seed(3)
        model = build_classifier(**layers)
        method = build_method()
        compile_classifier(model, method=method, l2=0.1, run_eagerly=run_eagerly)
        train(model, *random_examples(40))
        weights.append(model.get_weights())
    assert relative_error(*weights) < 1e-6  # fused operations round differently


def clip_by_norm(gradients, limit):
    return [g * min(1, limit / norm([g])) for g in gradients]


def clip_by_global_norm(gradients, limit):
    return scale(gradients, min(1, limit / norm(gradients)))


@pytest.mark.parametrize(
    ("argument", "clip"),
    [("clipnorm", clip_by_norm), ("global_clipnorm", clip_by_global_norm)],
)
def test_only_the_final_gradient_is_clipped(argument, clip):
    """Clipping acts on g_sam + l2 w; epsilon keeps the length that rho gives it."""
    limit, l2 = 0.2, 0.1
    x, y = random_examples(16)
    optimizer = keras.optimizers.SGD(0.1, **{argument: limit})
    model = sam_classifier(optimizer=optimizer, l2=l2)
    weights = weights_float64(model)
    gradients = add(compute_sam_gradients(weights, x, y), scale(weights, l2))
    clipped = clip(gradients, limit)
    model.train_on_batch(x, y)
    expected = add(weights, scale(clipped, -0.1))
    assert relative_error(model.get_weights(), expected) < 1e-6  # float32
    assert norm(clipped) < 0.9 * norm(gradients)


def test_sample_weights_enter_both_passes():
    """Weights of 2 and 0 on half a batch each are a SAM step on the first half."""
    x, y = random_examples(32)
    sample_weight = np.repeat([2.0, 0.0], 16)
    model = sam_classifier()
    weights = weights_float64(model)
    model.train_on_batch(x, y, sample_weight=sample_weight)
    gradients = compute_sam_gradients(weights, x[:16], y[:16])
    expected = add(weights, scale(gradients, -0.1))
    assert relative_error(model.get_weights(), expected) < 1e-6  # float32


def test_class_weights_are_sample_weights_by_class():
    """class_weight trains as the sample weights do that it stands for."""
    x, y = random_examples(48)
    class_weight = {0: 0.5, 1: 2.0, 2: 0.0}
    by_class, by_sample = sam_classifier(), sam_classifier()
    by_sample.set_weights(by_class.get_weights())
    train(by_class, x, y, class_weight=class_weight)
    train(by_sample, x, y, sample_weight=np.array([class_weight[c] for c in y]))
    error = relative_error(by_class.get_weights(), by_sample.get_weights())
    assert error < 1e-7  # the same program on the same numbers


@pytest.mark.parametrize(
    "weighting",
    [
        {"class_weight": {0: 0.5, 1: 2.0, 2: 1.0}},
        {"sample_weight": np.linspace(0, 2, 48)},
    ],
    ids=["class_weight", "sample_weight"],
)
def test_weighted_training_with_rho_of_zero_is_plain_keras(weighting):
    """The weights change the loss as keras.Model has them do."""
    weights = []
    for model_class in (samkeras.SAMModel, keras.Model):
        keras.utils.set_random_seed(3)
        model = build_classifier(model_class)
        is_ours = model_class is samkeras.SAMModel
        kwargs = {"method": samkeras.SAM(0.0)} if is_ours else {}
        compile_classifier(model, run_eagerly=True, **kwargs)
        train(model, *random_examples(48), **weighting)
        weights.append(model.get_weights())
    assert relative_error(*weights) < 1e-7  # float32


def test_averaged_weights_with_rho_of_zero_are_plain_keras():
    """The optimizer's average of the weights (`use_ema`), and the weights that it takes
    the place of every other step and at the end, to the bit."""
    ends = []
    for model_class in (samkeras.SAMModel, keras.Model):
        keras.utils.set_random_seed(3)
        optimizer = keras.optimizers.SGD(
            0.1,
            use_ema=True,
            ema_momentum=0.9,
            ema_overwrite_frequency=2,
        )
        model = build_classifier(model_class)
        is_ours = model_class is samkeras.SAMModel
        kwargs = {"method": samkeras.SAM(0.0)} if is_ours else {}
        compile_classifier(model, optimizer=optimizer, run_eagerly=True, **kwargs)
        for batch in batches_of(*random_examples(48)):
            model.train_on_batch(*batch)
        weights = model.get_weights()
        optimizer.finalize_variable_values(model.trainable_variables)
        averages = model.get_weights()
        assert relative_error(averages, weights) > 1e-4
        ends.append([*weights, *averages])
    for ours, theirs in zip(*ends, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_frozen_layers_are_neither_perturbed_nor_moved():
    """epsilon, the logged norm, l2 and the step leave a frozen layer out."""
    x, y = random_examples(16)
    model = build_classifier()
    model.get_layer("hidden").trainable = False
    compile_classifier(
        model, optimizer=keras.optimizers.SGD(0.1), method=samkeras.SAM(RHO)
    )
    kernel, bias, *weights = weights_float64(model)
    gradients = perceptron_gradients([kernel, bias, *weights], x, y)[2:]
    perturbed = add(weights, scale(gradients, RHO / norm(gradients)))
    sam_gradients = perceptron_gradients([kernel, bias, *perturbed], x, y)[2:]
    history = train(model, x, y)
    assert history["grad_norm"][0] == pytest.approx(norm(gradients), rel=1e-5)
    expected = [kernel, bias, *add(weights, scale(sam_gradients, -0.1))]
    assert relative_error(model.get_weights(), expected) < 1e-6  # float32
    hidden = model.get_layer("hidden").get_weights()
    np.testing.assert_array_equal(hidden[0], kernel)
    np.testing.assert_array_equal(hidden[1], bias)


class DenseWithSpareWeight(keras.layers.Dense):
    """Owns a trainable weight that its output does not depend on."""

    def build(self, input_shape):
        super().build(input_shape)
        self.spare = self.add_weight(shape=(2,), initializer="ones")


def test_weights_that_the_loss_does_not_reach_are_only_decayed():
    """Their gradient, which backends report as none or zero, counts as zero."""
    inputs = keras.Input((FEATURES,))
    layer = DenseWithSpareWeight(CLASSES)
    model = samkeras.SAMModel(inputs, layer(inputs))
    compile_classifier(
        model,
        optimizer=keras.optimizers.SGD(0.5),
        method=samkeras.SAM(RHO),
        l2=0.25,
        run_eagerly=True,
    )
    model.train_on_batch(*random_examples(16))
    spare = keras.ops.convert_to_numpy(layer.spare.value)
    np.testing.assert_array_equal(spare, np.full(2, 1 - 0.5 * 0.25, "float32"))


def test_losses_of_several_outputs_are_weighted_in_both_passes():
    """Two outputs with loss weights train as one output whose loss is their sum."""
    x, _ = random_examples(32)
    rng = np.random.default_rng(2)
    targets = rng.standard_normal((2, 32, 2)).astype("float32")

    def build(joined):
        keras.utils.set_random_seed(3)
        inputs = keras.Input((FEATURES,))
        hidden = keras.layers.Dense(4, "tanh")(inputs)
        outputs = {name: keras.layers.Dense(2, name=name)(hidden) for name in "ab"}
        if joined:
            outputs = keras.layers.Concatenate()([outputs["a"], outputs["b"]])
        return samkeras.SAMModel(inputs, outputs)

    def weighted_sum(y, y_pred):
        squares = keras.ops.square(y - y_pred)
        weights = keras.ops.convert_to_tensor([1.0, 1.0, 0.25, 0.25])
        return keras.ops.sum(squares * weights, axis=-1) / 2

    args = {"optimizer": "sgd", "method": samkeras.SAM(RHO)}
    several, one = build(joined=False), build(joined=True)
    losses, loss_weights = {"a": "mse", "b": "mse"}, {"a": 1.0, "b": 0.25}
    several.compile(loss=losses, loss_weights=loss_weights, **args)
    one.compile(loss=weighted_sum, **args)
    train(several, x, {"a": targets[0], "b": targets[1]})
    train(one, x, np.concatenate(targets, axis=1))
    error = relative_error(several.get_weights(), one.get_weights())
    assert error < 1e-6  # float32 sums in another order


@pytest.mark.parametrize(
    "build_optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        # epsilon 1e-3: Adam divides by small gradients' sizes, and so by their errors.
        lambda: keras.optimizers.Adam(0.1, epsilon=1e-3),
        lambda: keras.optimizers.AdamW(0.1, weight_decay=0.1, epsilon=1e-3),
    ],
    ids=["sgd", "adam", "adamw"],
)
def test_any_optimizer_of_keras_takes_the_sam_gradient(build_optimizer):
    """Training equals the optimizer alone, fed with SAM gradients made by hand."""
    model = sam_classifier(optimizer=build_optimizer())
    by_hand = [keras.Variable(w) for w in model.get_weights()]
    optimizer = build_optimizer()
    optimizer.build(by_hand)
    for batch in batches_of(*random_examples(48)):
        weights = [
            keras.ops.convert_to_numpy(v.value).astype("float64") for v in by_hand
        ]
        gradients = compute_sam_gradients(weights, *batch)
        tensors = [keras.ops.convert_to_tensor(g, "float32") for g in gradients]
        optimizer.apply(tensors, by_hand)
        model.train_on_batch(*batch)
    # 1e-5: float32 errors of the gradients, divided by their size.
    assert relative_error(model.get_weights(), by_hand) < 1e-5


def test_a_layer_of_another_type_trains():
    """A bfloat16 layer among float32 ones takes gradients and epsilon of its type."""
    inputs = keras.Input((FEATURES,))
    hidden = keras.layers.Dense(4, "tanh", dtype="bfloat16")(inputs)
    model = samkeras.SAMModel(inputs, keras.layers.Dense(CLASSES)(hidden))
    compile_classifier(model, method=samkeras.SAM(RHO, p=3), l2=0.01)
    before = model.get_weights()
    history = train(model, *random_examples())
    assert np.isfinite(history["sam_grad_norm"][0])
    for old, new in zip(before, model.get_weights(), strict=True):
        assert new.dtype == old.dtype
        assert np.any(new != old)


def test_compiling_again_starts_afresh():
    """A second compile replaces the first's method, l2 and metrics."""
    x, y = random_examples(16)
    model = sam_classifier(l2=0.5)
    num_metrics = len(model.metrics)
    train(model, x, y)
    compile_classifier(model, method=samkeras.SAM(0.25), run_eagerly=True)
    assert len(model.metrics) == num_metrics
    assert (model.method.rho, model.l2) == (0.25, 0)
    assert "grad_norm" in train(model, x, y)


def test_an_assigned_method_is_the_next_step_s():
    """Another rule or other groups take effect in the compiled step, on a model that
    had none before too; a callback may assign them."""
    x, y = random_examples(16)
    assigned = sam_classifier(run_eagerly=False)
    assigned.m_sharpness = np.int64(16)
    plain = sam_classifier(run_eagerly=False, method=None)
    train(assigned, x, y)
    train(plain, x, y)

    def assign(*_, **__):
        assigned.method = samkeras.SAM(5.0, p=3)

    assigned.m_sharpness = None
    assign()
    plain.method = samkeras.SAM(5.0, p=3)
    for model in (assigned, plain):
        fresh = sam_classifier(method=samkeras.SAM(5.0, p=3))
        fresh.set_weights(model.get_weights())
        model.optimizer.iterations.assign(0)
        history = train(model, x, y)
        assert history["grad_norm"] == pytest.approx(train(fresh, x, y)["grad_norm"])
        assert relative_error(model.get_weights(), fresh.get_weights()) < 1e-6
    called = keras.callbacks.LambdaCallback(on_train_batch_begin=assign)
    function = assigned.train_function
    train(assigned, x, y, callbacks=[called])
    assert assigned.train_function is not function


def test_an_assigned_method_is_checked_as_a_compiled_one_is():
    model = sam_classifier(m_sharpness=4)
    assert model.get_compile_config()["m_sharpness"] == 4
    with pytest.raises(TypeError, match=r"^method must .*Received"):
        model.method = 0.05
    with pytest.raises(ValueError, match=r"^m_sharpness must .*Received"):
        model.method = None
    with pytest.raises(ValueError, match=r"^m_sharpness must .*Received"):
        model.m_sharpness = False
    assert model.m_sharpness == 4


def test_sparse_inputs_train_as_dense_ones_do():
    """Of SciPy, several steps in a call too; groups of examples are refused."""
    sparse = pytest.importorskip("scipy.sparse")
    x, y = random_examples(32)
    x[x < 0] = 0
    weights = []
    for data in (x, sparse.csr_matrix(x)):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((FEATURES,), sparse=data is not x)
        model = samkeras.SAMModel(inputs, keras.layers.Dense(CLASSES)(inputs))
        method = samkeras.SAM(RHO)
        compile_classifier(model, method=method, steps_per_execution=2)
        train(model, data, y)
        weights.append(model.get_weights())
    assert relative_error(*weights) < 1e-6  # float32 sums in another order
    model.m_sharpness = 4
    with pytest.raises(ValueError, match="m_sharpness cannot cut sparse"):
        train(model, data, y)


def test_hyperparameters_are_no_weights_of_the_model():
    """rho, l2 and the statistics are neither counted nor saved among the weights."""
    ours = sam_classifier(l2=0.1)
    plain = build_classifier(keras.Model)
    assert len(ours.weights) == len(plain.weights)
    assert len(ours.variables) == len(plain.variables)
    assert ours.count_params() == plain.count_params()


@pytest.mark.parametrize(
    ("kwargs", "error", "argument"),
    [
        ({"method": "sam"}, TypeError, "method"),
        ({"l2": -1}, ValueError, "l2"),
        ({"l2": float("nan")}, ValueError, "l2"),
        ({"l2": "1e-4"}, TypeError, "l2"),
        ({"l2": False}, TypeError, "l2"),
    ],
)
def test_compile_names_what_it_refuses(kwargs, error, argument):
    """A bad argument is refused by a message with its name and value."""
    with pytest.raises(error, match=rf"^{argument} must .*Received: {argument}="):
        compile_classifier(build_classifier(), **kwargs)


def test_l2_can_be_set_only_where_there_is_one():
    """A model compiled without l2 says so; one with it checks the new value."""
    model = sam_classifier()
    with pytest.raises(ValueError, match=r"^l2 .*Received: l2=0.1"):
        model.l2 = 0.1
    model = sam_classifier(l2=0.5)
    with pytest.raises(ValueError, match=r"^l2 must .*Received: l2=-0.1"):
        model.l2 = -0.1
    model.l2 = 0.25
    assert model.l2 == 0.25
