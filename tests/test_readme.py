"""The README's code runs as it is written."""

import re
from pathlib import Path

import keras
import numpy as np

import samkeras
from samkeras.experiment.options.methods import CLASSES

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
X = np.random.default_rng(0).random((64, 28, 28), "float32")
Y = np.random.default_rng(0).integers(0, 10, 64)


def test_sam_in_your_own_code(tmp_path):
    """The model trains, and by the method of one's own too, in groups, saved and
    loaded with its state."""
    section = README.read_text().split("\n## SAM in your own code")[1].split("\n## ")[0]
    names = {"x_batch": X, "y_batch": Y}
    for block in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL):
        exec(block, names)
    model = names["model"]
    assert isinstance(model, samkeras.SAMModel)
    assert model.masks is not None
    first, *_, last = model.fit(X, Y, epochs=4, verbose=0).history["loss"]
    assert last < first
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, method=names["TwoPoints"](), m_sharpness=8)
    model.fit(X, Y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(model.method.state, loaded.method.state, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (ours, theirs)))
    assert float(keras.ops.max(keras.ops.abs(loaded.method.state[0]))) > 0


def test_measure_sharpness(tmp_path, monkeypatch):
    """All that is measured is a number, of all the examples."""
    monkeypatch.chdir(tmp_path)
    section = README.read_text().split("\n## Measure sharpness")[1].split("\n## ")[0]
    model = keras.Sequential([keras.Input((28, 28)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(10))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    start = [np.array(w) for w in model.trainable_variables]
    model.fit(X, Y, epochs=2, verbose=0)
    names = {"model": model, "x": X, "y": Y}
    names |= {"weights_before": start, "weights_at_start": start}
    weights = np.concatenate([np.ravel(w) for w in start])
    names |= {"x_test": X[:9], "y_test": Y[:9]}
    names["weights_of_epochs"] = [weights * 0, weights, weights**2]
    for block in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL):
        exec(block, names)
    assert names["top"].converged
    assert names["top"].num_examples == 64
    assert names["plane"].test["loss"].shape == (51, 51)
    assert names["line"].at.shape == (41,)


def test_every_method_has_a_row_of_its_page():
    """By its option and its class."""
    page = (ROOT / "docs/methods.md").read_text()
    for method, name in CLASSES.items():
        assert f"\n| `{method}` | `{name}` |" in page
