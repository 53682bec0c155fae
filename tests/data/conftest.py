"""What tests of data share."""

from pathlib import Path

import numpy as np
import pytest

from samkeras.data import own_graphs


@pytest.fixture
def proteins(tmp_path, monkeypatch) -> Path:
    """A set of TUDataset, in its own layout, where spektral keeps it."""
    pytest.importorskip("spektral")
    from spektral.data import dataset

    monkeypatch.setattr(dataset, "DATASET_FOLDER", str(tmp_path))
    own_graphs._load_spektral.cache_clear()
    folder = tmp_path / "TUDataset" / "PROTEINS"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    edges, owners, labels, attributes, nodes = [], [], [], [], []
    for number in range(20):
        first, size = len(owners) + 1, int(rng.integers(3, 7))
        owners += [number + 1] * size
        nodes += rng.integers(0, 3, size).tolist()
        attributes += rng.normal(size=(size, 2)).tolist()
        labels.append(1 + number % 2)
        for i in range(size - 1):
            edges += [(first + i, first + i + 1), (first + i + 1, first + i)]
    for name, rows in {
        "A": [f"{a}, {b}" for a, b in edges],
        "graph_indicator": owners,
        "graph_labels": labels,
        "node_labels": nodes,
        "node_attributes": [f"{a}, {b}" for a, b in attributes],
    }.items():
        (folder / f"PROTEINS_{name}.txt").write_text("\n".join(map(str, rows)) + "\n")
    return folder
