"""Pruning at initialization: which weights are kept, and that the others stay zero."""

import keras
import numpy as np
import pytest
from keras import ops

import samkeras
from samkeras.pruning import apportion, count_kept, find_kernels, keep_highest
from tests import helpers


def compiled_classifier(**kwargs) -> samkeras.SAMModel:
    keras.utils.set_random_seed(0)
    return helpers.compile_classifier(helpers.build_classifier(**kwargs))


def kernels_of(model: keras.Model) -> list[np.ndarray]:
    return [ops.convert_to_numpy(k) for k in find_kernels(model)]


def masks_of(model: samkeras.SAMModel) -> list[np.ndarray]:
    return [ops.convert_to_numpy(model.masks.of(k)) for k in find_kernels(model)]


def authors_global_mask(scores: list[np.ndarray], count: int) -> list[np.ndarray]:
    """The authors' rule in plain NumPy: sort all scores, keep those above the cut; they
    cut one weight earlier where sparsity * n is a whole number."""
    ranked = sorted(np.concatenate([s.ravel() for s in scores]), reverse=True)
    threshold = (ranked[count - 1] + ranked[count]) / 2
    return [s > threshold for s in scores]


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.83])
def test_snip_keeps_the_highest_sensitivities_of_all_kernels(sparsity):
    """Against gradients derived by hand, ranked over both kernels together."""
    model = compiled_classifier()
    x, y = helpers.random_examples(32)
    weights = helpers.weights_float64(model)
    gradients = helpers.perceptron_gradients(weights, x, y)
    scores = [np.abs(weights[i] * gradients[i]) for i in (0, 2)]
    samkeras.prune_at_init(model, "snip", sparsity, data=(x, y))
    size = sum(s.size for s in scores)
    expected = authors_global_mask(scores, round((1 - sparsity) * size))
    for mask, kept in zip(masks_of(model), expected, strict=True):
        np.testing.assert_array_equal(mask, kept)
    for i, mask in zip((0, 2), masks_of(model), strict=True):
        pruned = np.asarray(model.get_weights()[i])
        np.testing.assert_array_equal(pruned, np.where(mask, weights[i], 0))


def test_several_batches_score_as_one_large_batch():
    x, y = helpers.random_examples(48)
    whole, split = compiled_classifier(), compiled_classifier()
    samkeras.prune_at_init(whole, "snip", 0.6, data=(x, y))
    parts = [(x[:32], y[:32]), (x[32:], y[32:])]
    samkeras.prune_at_init(split, "snip", 0.6, data=parts)
    for a, b in zip(masks_of(whole), masks_of(split), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("method", ["random", "magnitude"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9])
def test_the_same_fraction_of_each_kernel_is_kept(method, sparsity):
    """To within one weight in each kernel, and exactly in all."""
    model = compiled_classifier()
    sizes = [k.size for k in kernels_of(model)]
    samkeras.prune_at_init(model, method, sparsity)
    counts = [np.count_nonzero(mask) for mask in masks_of(model)]
    assert sum(counts) == round((1 - sparsity) * sum(sizes))
    for count, size in zip(counts, sizes, strict=True):
        assert abs(count - (1 - sparsity) * size) <= 1


def test_magnitude_keeps_the_largest_of_each_kernel():
    model = compiled_classifier()
    before = kernels_of(model)
    samkeras.prune_at_init(model, "magnitude", 0.5)
    for weights, mask in zip(before, masks_of(model), strict=True):
        assert np.abs(weights[mask]).min() >= np.abs(weights[~mask]).max()


def test_random_depends_on_the_seed_alone():
    masks = []
    for seed in (0, 0, 1):
        model = compiled_classifier()
        samkeras.prune_at_init(model, "random", 0.5, seed=seed)
        masks.append(helpers.flat(masks_of(model)))
    np.testing.assert_array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])


def test_equal_scores_are_kept_in_order_and_in_number():
    scores = np.array([1.0, 2.0, 2.0, 2.0, 0.0])
    for count, kept in ((0, []), (1, [1]), (2, [1, 2]), (4, [0, 1, 2, 3])):
        assert np.flatnonzero(keep_highest(scores, count)).tolist() == kept
    assert np.flatnonzero(keep_highest(np.zeros(7), 3)).tolist() == [0, 1, 2]


def test_shares_sum_up_and_differ_by_less_than_one():
    rng = np.random.default_rng(0)
    for _ in range(100):
        sizes = rng.integers(1, 1000, rng.integers(1, 9)).tolist()
        total = int(rng.integers(0, sum(sizes) + 1))
        shares = apportion(total, sizes)
        assert sum(shares) == total
        for share, size in zip(shares, sizes, strict=True):
            assert abs(share - total * size / sum(sizes)) < 1
            assert 0 <= share <= size


def test_a_sparsity_for_a_number_of_weights_keeps_that_number():
    """As --match_width asks for: no weight more or less at any size."""
    for size, kept in ((5_362_700, 61_035), (178_585_866, 1), (3, 2), (10**9, 10**9)):
        assert count_kept(size, 1 - kept / size) == kept


def test_only_kernels_are_pruned():
    """Dense, convolution, embedding and recurrent kernels; no bias, no norm."""
    inputs = keras.Input((12,))
    x = keras.layers.Embedding(9, 6)(inputs)
    x = keras.layers.Conv1D(4, 3)(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.SeparableConv1D(4, 3)(x)
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.MultiHeadAttention(2, 3)(x, x)
    x = keras.layers.Bidirectional(keras.layers.LSTM(3))(x)
    model = samkeras.SAMModel(inputs, keras.layers.Dense(2)(x))
    names = [k.name for k in find_kernels(model)]
    assert sorted(set(names)) == [
        "depthwise_kernel",
        "embeddings",
        "kernel",
        "pointwise_kernel",
        "recurrent_kernel",
    ]
    assert len(names) == 1 + 1 + 2 + 4 + 2 * 2 + 1
    rest = {v.name for v in model.trainable_variables} - set(names)
    assert rest == {"bias", "gamma", "beta"}


def test_frozen_layers_are_not_pruned():
    model = compiled_classifier()
    model.get_layer("hidden").trainable = False
    assert [k.path for k in find_kernels(model)] == ["logits/kernel"]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "method",
    [
        samkeras.SAM(0.1),
        samkeras.SAM(0.1, p=float("inf"), steps=2),
        samkeras.RandomPerturbation(0.1),
        None,
    ],
    ids=["sam", "sam_inf", "random", "none"],
)
def test_pruned_weights_stay_zero(method, policy, tmp_path):
    """Over 200 steps with momentum and l2, and through saving and loading."""
    x, y = helpers.random_examples(1600)
    keras.config.set_dtype_policy(policy)
    try:
        model = helpers.build_classifier(norm=True, dropout=0.1)
        helpers.compile_classifier(model, method=method, l2=1e-3, steps_per_execution=4)
        samkeras.prune_at_init(model, "snip", 0.7, data=(x[:80], y[:80]))
        before = kernels_of(model)
        helpers.train(model, x, y)
        assert_pruned(model, before)
        model.save(tmp_path / "m.keras")
        loaded = keras.saving.load_model(tmp_path / "m.keras")
        for a, b in zip(masks_of(loaded), masks_of(model), strict=True):
            np.testing.assert_array_equal(a, b)
        helpers.train(loaded, x, y)
        assert_pruned(loaded, before)
    finally:
        keras.config.set_dtype_policy("float32")


def assert_pruned(model: samkeras.SAMModel, before: list[np.ndarray]) -> None:
    """Weights, and their momentum, are zero where pruned and moved elsewhere."""
    for kernel, mask, start in zip(
        kernels_of(model), masks_of(model), before, strict=True
    ):
        assert np.count_nonzero(kernel[~mask]) == 0
        assert np.count_nonzero(kernel[mask] == start[mask]) == 0
        slots = [v for v in model.optimizer.variables if v.shape == start.shape]
        assert any(np.count_nonzero(slot) for slot in slots)
        assert all(
            np.count_nonzero(ops.convert_to_numpy(slot)[~mask]) == 0 for slot in slots
        )


def test_an_optimizer_that_moves_every_weight_moves_no_pruned_one():
    """Muon's orthogonalized step is not zero where the gradient is."""
    model = helpers.build_classifier()
    optimizer = keras.optimizers.Muon(0.05, exclude_layers=["logits"])
    helpers.compile_classifier(model, optimizer=optimizer)
    samkeras.prune_at_init(model, "random", 0.5)
    helpers.train(model, *helpers.random_examples())
    for kernel, mask in zip(kernels_of(model), masks_of(model), strict=True):
        assert np.count_nonzero(kernel[~mask]) == 0


def test_training_with_masks_equals_the_formula():
    """20 steps by hand: the mask on weights, gradients and so on epsilon."""
    model = compiled_classifier()
    x, y = helpers.random_examples(64)
    rho, rate, momentum, l2 = 0.1, 0.2, 0.9, 1e-2
    helpers.compile_classifier(model, method=samkeras.SAM(rho), l2=l2)
    samkeras.prune_at_init(model, "random", 0.5)
    first, second = masks_of(model)
    masks = [first, np.ones(helpers.HIDDEN), second, np.ones(helpers.CLASSES)]
    weights = helpers.weights_float64(model)
    velocity = [np.zeros_like(w) for w in weights]

    def masked_gradients(weights, x, y):
        gradients = helpers.perceptron_gradients(weights, x, y)
        return [g * m for g, m in zip(gradients, masks, strict=True)]

    for bx, by in helpers.batches_of(x, y) * 5:
        gradients = masked_gradients(weights, bx, by)
        epsilon = helpers.scale(gradients, rho / helpers.norm(gradients))
        sam_gradients = masked_gradients(helpers.add(weights, epsilon), bx, by)
        steps = helpers.add(sam_gradients, helpers.scale(weights, l2))
        velocity = helpers.add(helpers.scale(velocity, momentum), steps)
        weights = helpers.add(weights, helpers.scale(velocity, -rate))
    helpers.train(model, x, y, epochs=5)
    assert helpers.relative_error(model.get_weights(), weights) < 1e-5


def test_a_random_perturbation_keeps_its_norm_on_the_kept_weights():
    perturbation = samkeras.RandomPerturbation(0.3)
    mask = np.arange(40) % 4 == 0
    gradients = [ops.ones(40), ops.ones(3)]

    def drop(tensors):
        return [ops.where(mask, tensors[0], 0.0), tensors[1]]

    epsilon = helpers.find_epsilon(perturbation, gradients, step=7, mask=drop)
    assert helpers.norm(epsilon) == pytest.approx(0.3, rel=1e-5)
    assert np.count_nonzero(ops.convert_to_numpy(epsilon[0])[~mask]) == 0


def test_weights_files_hold_the_masks(tmp_path):
    model = compiled_classifier()
    samkeras.prune_at_init(model, "random", 0.5)
    model.save_weights(tmp_path / "m.weights.h5")
    other = compiled_classifier()
    other.load_weights(tmp_path / "m.weights.h5")
    for a, b in zip(masks_of(model), masks_of(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_pruned_model_takes_dense_weights_where_it_keeps_them(tmp_path):
    dense, model = compiled_classifier(), compiled_classifier()
    dense.save_weights(tmp_path / "m.weights.h5")
    samkeras.prune_at_init(model, "random", 0.5)
    model.load_weights(tmp_path / "m.weights.h5")
    for kernel, mask, whole in zip(
        kernels_of(model), masks_of(model), kernels_of(dense), strict=True
    ):
        np.testing.assert_array_equal(kernel, np.where(mask, whole, 0))


def test_pruning_after_training_needs_a_fresh_optimizer():
    model = compiled_classifier()
    helpers.train(model, *helpers.random_examples())
    with pytest.raises(ValueError, match="compile it anew"):
        samkeras.prune_at_init(model, "magnitude", 0.5)
    helpers.compile_classifier(model)
    samkeras.prune_at_init(model, "magnitude", 0.5)


def test_masks_set_between_two_fits_take_effect():
    """The compiled program of the first fit knows of no masks."""
    model = compiled_classifier()
    x, y = helpers.random_examples()
    helpers.train(model, x, y)
    kernel = find_kernels(model)[0]
    mask = np.arange(kernel.shape[0] * kernel.shape[1]).reshape(kernel.shape) % 2 == 0
    model.set_masks([(kernel, mask)])
    helpers.train(model, x, y)
    assert np.count_nonzero(ops.convert_to_numpy(kernel)[~mask]) == 0


def test_scoring_changes_nothing_but_the_pruned_weights():
    """Neither BatchNorm's statistics nor the dropout's seed, nor the optimizer."""
    model = helpers.build_classifier(norm=True, dropout=0.5)
    helpers.compile_classifier(model)
    before = [ops.convert_to_numpy(v) for v in model.non_trainable_variables]
    samkeras.prune_at_init(model, "snip", 0.5, data=helpers.random_examples(16))
    after = [ops.convert_to_numpy(v) for v in model.non_trainable_variables]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(model.optimizer.iterations) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("snap", 0.5), "mean snip"),
        (("random", 1.0), "sparsity must be >= 0 and < 1. Received: 1.0"),
        (("random", -0.1), "Received: -0.1"),
        (("random", "0.5"), "Received: '0.5'"),
        (("random", False), "Received: False"),
        (("snip", 0.5), "needs data"),
        (("snip", 0.5, []), "no batch"),
        (("random", 0.99), "no weight of logits/kernel"),
    ],
)
def test_errors_say_what_is_wrong(arguments, message):
    model = compiled_classifier()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        samkeras.prune_at_init(model, *arguments)
    assert model.masks is None
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("seed", [None, -1, 1.0, True])
def test_a_seed_is_a_whole_number(seed):
    """NumPy's own would draw anew each time for None."""
    with pytest.raises(ValueError, match=rf"seed must .*Received: {seed}"):
        samkeras.prune_at_init(compiled_classifier(), "random", 0.5, seed=seed)


def test_an_emptied_layer_is_an_error_unless_allowed():
    model = compiled_classifier()
    model.get_layer("hidden").kernel.assign(np.zeros((5, 8)))
    data = helpers.random_examples()
    with pytest.raises(ValueError, match=r"hidden/kernel.*lower the sparsity"):
        samkeras.prune_at_init(model, "snip", 0.7, data=data)
    samkeras.prune_at_init(model, "snip", 0.7, data=data, allow_empty_layers=True)
    assert model.masks.num_pruned == 64 - round(0.3 * 64)


def test_scores_that_are_not_finite_are_an_error():
    model = compiled_classifier()
    x, y = helpers.random_examples()
    x[0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        samkeras.prune_at_init(model, "snip", 0.5, data=(x, y))


def test_pruning_twice_is_an_error():
    model = compiled_classifier()
    samkeras.prune_at_init(model, "random", 0.5)
    with pytest.raises(ValueError, match="pruned already"):
        samkeras.prune_at_init(model, "random", 0.5)


def test_only_a_sam_model_can_be_pruned():
    with pytest.raises(TypeError, match="SAMModel"):
        samkeras.prune_at_init(helpers.build_classifier(keras.Model), "random", 0.5)


class SetMasks(keras.callbacks.Callback):
    """Prunes half of a model's first kernel in its fit."""

    def __init__(self, at):
        super().__init__()
        setattr(self, at, self.prune)

    def prune(self, *_, logs=None):
        prune_half(self.model)


def prune_half(model) -> None:
    kernel = find_kernels(model)[0]
    model.set_masks([(kernel, half_of(kernel))])


def half_of(kernel) -> np.ndarray:
    return np.arange(int(np.prod(kernel.shape))).reshape(kernel.shape) % 2 == 0


def assert_half_pruned(model) -> None:
    kernel = find_kernels(model)[0]
    pruned = ops.convert_to_numpy(kernel)[~half_of(kernel)]
    assert np.count_nonzero(pruned) == 0


@pytest.mark.parametrize("at", ["on_epoch_begin", "on_train_batch_end"])
def test_masks_set_within_fit_act_from_the_next_step_on(at):
    """The running fit goes on; the program that knew of no masks is not used again."""
    model = compiled_classifier()
    helpers.train(model, *helpers.random_examples(48), callbacks=[SetMasks(at)])
    assert_half_pruned(model)
    assert int(model.optimizer.iterations) == 3


def test_other_masks_of_the_same_weights_compile_nothing():
    """They are inputs of the program: a callback that loads weights costs no time."""
    model = compiled_classifier()
    samkeras.prune_at_init(model, "random", 0.5)
    x, y = helpers.random_examples(16)
    helpers.train(model, x, y)
    function = model.train_function
    kernel = find_kernels(model)[0]
    model.set_masks([(k, half_of(k)) for k in find_kernels(model)])
    helpers.train(model, x, y)
    assert model.train_function is function
    assert_half_pruned(model)
    model.set_masks([])
    helpers.train(model, x, y)
    assert np.count_nonzero(ops.convert_to_numpy(kernel)[~half_of(kernel)]) > 0


def test_a_pruned_run_resumes_within_fit(tmp_path):
    """BackupAndRestore loads the weights, and so the masks, inside of fit."""
    x, y = helpers.random_examples(16)
    for epochs in (1, 2):
        model = compiled_classifier()
        prune_half(model)
        backup = keras.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
        helpers.train(model, x, y, epochs=epochs, callbacks=[backup])
        assert_half_pruned(model)
    assert int(model.optimizer.iterations) == 2  # of which it took one itself


@pytest.mark.parametrize("outer_class", [samkeras.SAMModel, keras.Model])
def test_a_pruned_model_within_another_stays_pruned(outer_class, tmp_path):
    """A pruned backbone under a new head, trained by SAMModel or by plain keras, keeps
    its masks; the outer SAMModel's epsilon too is zero there."""
    x, y = helpers.random_examples(32)
    backbone = helpers.build_classifier()
    prune_half(backbone)
    inputs = keras.Input((helpers.FEATURES,))
    outputs = keras.layers.Dense(helpers.CLASSES)(backbone(inputs))
    outer = outer_class(inputs, outputs)
    is_ours = outer_class is samkeras.SAMModel
    kwargs = {"method": samkeras.SAM(0.1)} if is_ours else {}
    helpers.compile_classifier(outer, **kwargs)
    helpers.train(outer, x, y)
    assert_half_pruned(backbone)
    outer.save(tmp_path / "outer.keras")
    loaded = keras.models.load_model(tmp_path / "outer.keras")
    helpers.train(loaded, x, y)
    assert_half_pruned(loaded)


def test_masks_set_later_within_another_model_take_effect():
    """An outer SAMModel that has trained already learns of its backbone's new masks."""
    x, y = helpers.random_examples(16)
    backbone = helpers.build_classifier()
    inputs = keras.Input((helpers.FEATURES,))
    outer = samkeras.SAMModel(inputs, backbone(inputs))
    helpers.compile_classifier(outer, method=samkeras.SAM(0.1))
    helpers.train(outer, x, y)
    prune_half(backbone)
    helpers.train(outer, x, y)
    assert_half_pruned(outer)


def test_a_clone_has_the_masks():
    """Compiled or not, and one within another model too."""
    model = helpers.build_classifier()
    prune_half(model)
    kernel = find_kernels(model)[0]
    inputs = keras.Input((helpers.FEATURES,))
    outer = samkeras.SAMModel(inputs, model(inputs))
    for original in (model, outer, helpers.compile_classifier(model)):
        clone = keras.models.clone_model(original)
        np.testing.assert_array_equal(
            clone.masks.of(find_kernels(clone)[0]), half_of(kernel)
        )
        assert_half_pruned(clone)
        assert find_kernels(clone)[0] is not kernel
    helpers.train(helpers.compile_classifier(clone), *helpers.random_examples(16))
    assert_half_pruned(clone)


def test_set_weights_takes_dense_weights_where_they_are_kept():
    model, dense = compiled_classifier(), compiled_classifier()
    samkeras.prune_at_init(model, "random", 0.5)
    model.set_weights(dense.get_weights())
    for kernel, mask, whole in zip(
        kernels_of(model), masks_of(model), kernels_of(dense), strict=True
    ):
        np.testing.assert_array_equal(kernel, np.where(mask, whole, 0))


def test_a_weight_keeps_its_own_constraint_beside_its_mask():
    """And has it alone again where the mask is taken off."""
    inputs = keras.Input((helpers.FEATURES,))
    layer = keras.layers.Dense(helpers.CLASSES, kernel_constraint="non_neg")
    model = samkeras.SAMModel(inputs, layer(inputs))
    helpers.compile_classifier(model, method=samkeras.SAM(0.1))
    own = layer.kernel.constraint
    model.set_masks([(layer.kernel, half_of(layer.kernel))])
    helpers.train(model, *helpers.random_examples(32))
    assert_half_pruned(model)
    assert ops.convert_to_numpy(layer.kernel).min() >= 0
    model.set_masks([])
    assert layer.kernel.constraint is own
    assert model.masks is None


def test_masks_of_another_model_are_refused():
    model, other = compiled_classifier(), compiled_classifier()
    kernel = find_kernels(other)[0]
    with pytest.raises(ValueError, match="must be of a weight of the model"):
        model.set_masks([(kernel, half_of(kernel))])
