"""The tagger and its treebanks: sizes, padding, formats and bad files."""

import keras
import numpy as np
import pytest
from keras import ops

import samkeras
from samkeras.data import treebank
from samkeras.data.examples import ArrayExamples
from samkeras.data.padding import bucket
from samkeras.data.sequences import (
    PAD,
    UNKNOWN,
    SequenceCollate,
    build_vocabulary,
    encode,
)
from samkeras.data.treebank import load_treebank, read_conllu
from samkeras.errors import InputError
from samkeras.experiment.runs.schedule import InverseSquareRoot
from samkeras.losses import TokenCrossentropy
from samkeras.models.common import WordDropout
from samkeras.models.tagger import build_tagger
from samkeras.scores import TokenAccuracy
from tests.helpers import arrays_of

LINE = "{}\t{}\t_\tNOUN\t{}\t_\t0\troot\t_\t_"


def write_conllu(path, sentences) -> None:
    """A file in the format, with a comment and a word written as two."""
    lines = []
    for words, tags in sentences:
        lines += ["# sent_id = 1", "# text = ..."]
        lines.append("1-2\tboth" + "\t_" * 8)
        lines += [
            LINE.format(i, word, tag)
            for i, (word, tag) in enumerate(zip(words, tags, strict=True), 1)
        ]
        lines.append("")
    path.write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    train = [(["ὁ", "λόγος"], ["l", "n"]), (["ὁ", "θεός", "ἦν"], ["l", "n", "v"])]
    write_conllu(tmp_path / "x-ud-train.conllu", train)
    write_conllu(tmp_path / "x-ud-dev.conllu", [(["καὶ", "ὁ"], ["c", "l"])])
    treebank._read.cache_clear()
    return tmp_path


@pytest.mark.parametrize(
    ("width_mult", "millions"),
    [(0.25, 5.5), (0.5, 13.5), (0.75, 23.7), (1, 36.3), (1.25, 51.3)],
)
def test_sizes(width_mult, millions):
    """6 (12 d^2 + 9 d) + 2 d + V d + (d + 1) O, which at about 33,000 words and some
    hundred tags are the paper's parameters."""
    num_words, num_tags, d = 33_000, 800, round(512 * width_mult)
    with keras.StatelessScope(initialize_variables=False):
        model = build_tagger(num_words, num_tags, width_mult)
    size = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    formula = 6 * (12 * d**2 + 9 * d) + 2 * d + num_words * d + (d + 1) * num_tags
    assert size == formula
    assert size / 1e6 == pytest.approx(millions, rel=0.02)


def tagger(**options) -> samkeras.SAMModel:
    keras.utils.set_random_seed(0)
    return build_tagger(20, 5, 0.05, depth=2, dropout=0.0, **options)


def batch(length: int):
    """Three sentences of 3, 5 and 1 words, padded to a length."""
    rng = np.random.default_rng(0)
    x = np.zeros((3, 5), "int32")
    y = np.full((3, 5), -1, "int32")
    for row, size in enumerate((3, 5, 1)):
        x[row, :size] = rng.integers(1, 20, size)
        y[row, :size] = rng.integers(0, 5, size)
    collate = SequenceCollate(has_token_labels=True)
    x, y, weights = collate.pad(x, y, length)
    return x, y, weights / collate.labels_per_example(y)


def test_padding_changes_nothing():
    """Logits of words, loss, accuracy and gradients are the same however much padding
    follows."""
    results = []
    for length in (8, 64):
        model = tagger()
        model.compile(
            samkeras.SGD(0.1),
            TokenCrossentropy(),
            weighted_metrics=[TokenAccuracy()],
            method=samkeras.SAM(0.1),
        )
        x, y, weights = batch(length)
        assert x.shape == (3, length)
        logits = ops.convert_to_numpy(model(x))[:, :5]
        scores = model.evaluate(x, y, sample_weight=weights, verbose=0)
        gradients = model.make_gradient_function()((x, y, weights))
        gradients = [ops.convert_to_numpy(g) for g in gradients]
        results.append((logits[y[:, :5] >= 0], scores, gradients))
    (logits, scores, gradients), (padded, padded_scores, padded_gradients) = results
    np.testing.assert_allclose(logits, padded, atol=1e-6)
    np.testing.assert_allclose(scores, padded_scores, rtol=1e-6)
    for one, other in zip(gradients, padded_gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_rare_words_are_dropped_the_most():
    """With probability 0.5 / (0.5 + count), padding never; the layer is saved whole."""
    counts = [0, 0, 1, 4, 1_000_000_000]
    words = np.tile(np.array([1, 2, 3, 4, PAD], "int32"), (20_000, 1))
    layer = WordDropout(0.5, counts, seed=3)
    layer = WordDropout.from_config(layer.get_config())
    dropped = ops.convert_to_numpy(layer(words, training=True))
    shares = np.mean(dropped == UNKNOWN, axis=0)
    # Five standard deviations of binomial shares.
    np.testing.assert_allclose(shares, [1, 1 / 3, 1 / 9, 0, 0], atol=5 * 0.0034)
    np.testing.assert_array_equal(np.where(dropped == UNKNOWN, words, dropped), words)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(words)), words)


def test_word_dropout_teaches_the_unknown_word():
    """Its embedding has a gradient then, and else none."""
    x, y, weights = batch(8)
    x[x == UNKNOWN] = 2
    for word_dropout, is_taught in ((0.0, False), (10.0, True)):
        model = tagger(word_dropout=word_dropout, word_counts=[0, 0] + [1] * 18)
        model.compile(samkeras.SGD(0.1), TokenCrossentropy())
        gradient, *_ = model.make_gradient_function()((x, y, weights))
        assert ops.convert_to_numpy(gradient)[UNKNOWN].any() == is_taught


def test_loss_and_accuracy_are_of_words_alone():
    """By hand: the mean over words; a tag unseen in training is wrong and teaches
    nothing."""
    model = tagger()
    model.compile("sgd", TokenCrossentropy(), weighted_metrics=[TokenAccuracy()])
    x, y, weights = batch(8)
    y[0, 0] = treebank.UNSEEN
    logits = ops.convert_to_numpy(model(x)).astype("float64")
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows, places = np.nonzero(y >= 0)
    losses = -log_p[rows, places, y[rows, places]]
    loss, accuracy = model.evaluate(x, y, sample_weight=weights, verbose=0)
    assert loss == pytest.approx(losses.sum() / 9, rel=1e-5)
    right = np.sum(logits.argmax(-1)[rows, places] == y[rows, places])
    assert accuracy == pytest.approx(right / 9)


def test_a_word_counts_as_much_in_a_long_batch_as_in_a_short_one():
    """Over batches padded to different lengths: 3 words of 9 right, then 8 of 9."""
    metric = TokenAccuracy()
    for length, num_right in ((8, 3), (64, 8)):
        _, y, weights = batch(length)
        predicted = np.where(y < 0, 0, y)
        rows, places = np.nonzero(y >= 0)
        wrong = rows[num_right:], places[num_right:]
        predicted[wrong] = (y[wrong] + 1) % 5
        metric.update_state(y, np.eye(5, dtype="float32")[predicted], weights)
    assert float(metric.result()) == pytest.approx(11 / 18)


@pytest.mark.parametrize("seed", [None, 3])
def test_losses_and_gradients_of_batches_are_means_over_words(seed):
    """Whatever sentences share a batch: the mean over batches, by hand."""
    rng = np.random.default_rng(2)
    sizes = np.array([2, 3, 3, 4, 20, 25, 30, 31])[rng.permutation(8), np.newaxis]
    x = np.where(np.arange(32) < sizes, rng.integers(2, 20, (8, 32)), PAD)
    y = np.where(x > 0, rng.integers(0, 5, x.shape), -1).astype("int32")
    collate = SequenceCollate(has_token_labels=True)
    examples = ArrayExamples(x.astype("int32"), y, collate=collate)
    model = tagger()
    model.compile("sgd", TokenCrossentropy(), weighted_metrics=[TokenAccuracy()])
    logits = ops.convert_to_numpy(model(x)).astype("float64")
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows, places = np.nonzero(y >= 0)
    expected = -np.mean(log_p[rows, places, y[rows, places]])
    gradient_of = model.make_gradient_function()

    def mean_gradients(batches):
        taken = [gradient_of(batches[i]) for i in range(batches.left)]
        return [
            np.mean([*map(np.array, parts)], 0) for parts in zip(*taken, strict=True)
        ]

    batches = examples.batches(2, seed)
    assert len({batches[i][0].shape for i in range(4)}) > 1
    for some in batches.take(2):
        model.test_on_batches(some, batches.specs)
    assert float(model.get_metrics_result()["loss"]) == pytest.approx(
        expected, rel=1e-5
    )
    whole = examples.batches(8, seed)
    for one, other in zip(mean_gradients(batches), mean_gradients(whole), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_batches_are_of_similar_lengths_and_few_shapes():
    """Every sentence once an epoch, in an order of (seed, epoch), in few shapes with
    little padding."""
    rng = np.random.default_rng(1)
    x = np.zeros((1000, 60), "int32")
    for i, length in enumerate(rng.integers(1, 61, 1000)):
        x[i, :length] = 2 + i
    y = np.where(x > 0, x, -1)
    collate = SequenceCollate(has_token_labels=True)
    batches = ArrayExamples(x, y, collate=collate).batches(16, seed=3)
    orders = []
    for epoch in (0, 1, 0):
        batches.start_epoch(epoch)
        taken = [batches[i] for i in range(batches.left)]
        orders.append(
            [
                int(row[0]) - 2
                for x, _, weights in taken
                for row, weight in zip(x, weights, strict=True)
                if weight.any()
            ]
        )
        assert sorted(orders[-1]) == list(range(1000))
    assert orders[0] == orders[2] != orders[1]
    shapes = {x.shape for x, _, _ in taken}
    assert len(shapes) <= 4
    num_words = sum(np.count_nonzero(x[w > 0]) for x, _, w in taken)
    assert num_words == np.count_nonzero(x)
    # Unsorted, nearly all batches would be of 64 words: 0.48.
    assert num_words / sum(x.size for x, _, _ in taken) > 0.6


def test_epochs_of_steps_go_on_where_the_last_one_stopped():
    """Epochs of 3 of 4 batches: the passes follow each other without a gap, and a part
    of an epoch is the end of the whole."""
    x = np.arange(16)
    passes = ArrayExamples(x, x).batches(4, seed=5)
    order = []
    for number in range(3):
        passes.start_epoch(number)
        order += [b for i in range(4) for b in passes[i][0].tolist()]
    steps = ArrayExamples(x, x).batches(4, seed=5, steps=3)
    taken = []
    for epoch in range(4):
        steps.start_epoch(epoch)
        assert steps.left == 3
        taken += [b for i in range(3) for b in steps[i][0].tolist()]
    assert taken == order
    steps.start_epoch(2, first_batch=1)
    assert [steps[i][0].tolist() for i in range(steps.left)] == [
        order[28:32],
        order[32:36],
    ]


def test_vocabulary_is_of_the_training_sentences():
    """Frequent words first; others are unknown."""
    vocabulary = build_vocabulary([["b", "a"], ["c", "b"]])
    counts = [("<pad>", 0), ("<unk>", 0), ("b", 2), ("a", 1), ("c", 1)]
    assert list(vocabulary.items()) == counts
    rows = encode([["b", "x", "c"], ["a"]], vocabulary, 2)
    np.testing.assert_array_equal(rows, [[2, 1], [3, 0]])
    assert [bucket(n, (8, 16)) for n in (1, 8, 9, 16, 17, 33)] == [8, 8, 16, 16, 32, 48]


def test_folder_of_conllu_files(folder):
    """Words, tags, unknown words, and a note of a tag that no training sentence has."""
    splits = load_treebank(str(folder), None, 4)
    assert splits.info.num_train == 2
    assert splits.info.num_validation == 1
    assert splits.info.num_outputs == 3
    (x, y), (x_val, y_val) = arrays_of(splits)
    # ids: ὁ twice, then the others by letters; tags l, n, v.
    np.testing.assert_array_equal(x, [[2, 4, 0, 0], [2, 3, 5, 0]])
    np.testing.assert_array_equal(y, [[0, 1, -1, -1], [0, 1, 2, -1]])
    np.testing.assert_array_equal(x_val, [[1, 2, 0, 0]])
    np.testing.assert_array_equal(y_val, [[-2, 0, -1, -1]])
    (note,) = splits.notes
    assert "1 tags" in note
    assert note.endswith(": c")
    assert splits.files["tags.txt"] == "l\nn\nv"
    assert splits.info.word_counts == (0, 0, 2, 1, 1, 1)


def test_broken_line_is_named(folder):
    """With its file and number."""
    path = folder / "x-ud-train.conllu"
    path.write_text(path.read_text(encoding="utf-8").replace("\tNOUN\tv", " NOUN v"))
    with pytest.raises(InputError, match=r"line 12 of .*x-ud-train.conllu is not"):
        list(read_conllu(path))


def test_missing_and_empty_splits(folder):
    """Both are named."""
    (folder / "x-ud-dev.conllu").write_text("# nothing\n")
    with pytest.raises(InputError, match="no sentences in its split dev"):
        load_treebank(str(folder), None, 4)
    treebank._read.cache_clear()
    (folder / "x-ud-dev.conllu").unlink()
    with pytest.raises(InputError, match=r"name ends with dev\.conllu"):
        load_treebank(str(folder), None, 4)


def test_unknown_treebank_has_a_nearest_name():
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(InputError, match="did you mean grc_perseus"):
        load_treebank("universal_dependencies/grc_perseu", None, 4)


def test_sample_has_all_sentences():
    """137,554 words in 6,276 sentences, 602 tags, each tenth to validate on."""
    pytest.importorskip("pysblgnt")
    train, validation = treebank._read_sample()
    sentences = train + validation
    assert sum(len(words) for words, _ in sentences) == 137_554
    assert len(sentences) == 6276
    assert len({tag for _, tags in sentences for tag in tags}) == 602
    # Normalized words, without the punctuation and the capitals of the text.
    assert sentences[0][0][:3] == ["βίβλος", "γενέσεως", "Ἰησοῦ"]
    assert not {sign for words, _ in sentences for w in words for sign in w} & {*",.;·"}
    assert len(train) / len(validation) == pytest.approx(9, rel=0.01)


def test_inverse_square_root_by_hand():
    """0.05 min(1, step / 8000) / sqrt(max(step, 8000))."""
    schedule = InverseSquareRoot(0.05, 8000)
    rates = [float(schedule(step)) for step in (0, 4000, 8000, 32000)]
    top = 0.05 / np.sqrt(8000)
    assert rates == pytest.approx([0, top / 2, top, top / 2], rel=1e-6)


def test_embedding_starts_as_flax_has_it():
    """A deviation of one over the root of the hidden size, at every width; and its
    dropout leaves the positions alone."""
    for width in (0.05, 0.25):
        model = build_tagger(400, 5, width, depth=1)
        table = np.asarray(model.get_layer("words_embedding").embeddings)
        assert np.std(table) == pytest.approx(table.shape[1] ** -0.5, rel=0.05)
    inputs = model.get_layer("block1_norm1").input
    assert "dropout" not in inputs._keras_history.operation.name
    x = np.ones((4, 8), "int32")
    model.get_layer("words_embedding").embeddings.assign(np.zeros_like(table))
    summed = keras.Model(model.input, inputs)
    np.testing.assert_array_equal(summed(x, training=True), summed(x, training=False))
