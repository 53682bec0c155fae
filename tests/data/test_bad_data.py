"""What is not what it says it is: refused by the command before anything is written, in
one line that says what is allowed, with exit code 2."""

import textwrap
from pathlib import Path

import numpy as np
import pytest

import run as command
from tests.data.making import images
from tests.data.test_own_functions import START
from tests.data.test_own_graphs import SDF

pytestmark = pytest.mark.one_backend


def function(expression: str):
    """A file with a function that returns it."""

    def write(folder: Path) -> str:
        body = f"def load():\n    return {expression}\n"
        (folder / "mine.py").write_text(textwrap.dedent(START) + body)
        return f"{folder / 'mine.py'}:load"

    return write


def conllu(text: str | bytes, *parts: str):
    """A folder of a treebank's parts, all of a text."""

    def write(folder: Path) -> str:
        for part in parts or ("train", "dev"):
            data = text.encode() if isinstance(text, str) else text
            (folder / f"x-ud-{part}.conllu").write_bytes(data)
        return str(folder)

    return write


def npz(**changes):
    """An .npz file that is right but for some arrays; None: it has them not."""

    def write(folder: Path) -> str:
        x, y = images()
        arrays = {"x_train": x, "y_train": y, "x_test": x, "y_test": y} | changes
        kept = {name: each for name, each in arrays.items() if each is not None}
        np.savez(folder / "d.npz", **kept)
        return str(folder / "d.npz")

    return write


def spektral(arguments: str, count: int = 9):
    """A file with a set of spektral, of graphs that are alike."""

    def write(folder: Path) -> str:
        (folder / "rings.py").write_text(f"""
import numpy as np
from spektral.data import Dataset, Graph

class Rings(Dataset):
    def read(self):
        return [Graph({arguments}) for i in range({count})]
""")
        return f"{folder / 'rings.py'}:Rings"

    return write


def text(name: str, content: str | bytes):
    """A file of a name."""

    def write(folder: Path) -> str:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
        return str(folder / name)

    return write


LINE = "1\tle\t_\tDET\tl\t_\t0\troot\t_\t_\n"
MOLECULE = SDF + "{}$$$$\n"
A = "a=np.ones((3, 3)), x=np.ones((3, 2))"
BAD = {
    "mnist_mlp": [
        (function("(IMAGES, LABELS)"), "must return samkeras.workload.Splits", "tuple"),
        (function("IMAGES[20]"), "IndexError", "mine.py:"),
        (function("give(IMAGES, LABELS[:4])"), "as many rows", "9 and 4"),
        (text("d.npz", "no archive"), "not a readable .npz", "zip"),
        (npz(y_test=None), "must hold x_train", "Missing: y_test"),
        (npz(x_test=np.ones((40, 4, 4, 3), "uint8")), "of one shape", "(4, 4, 3)"),
        (npz(y_train=np.arange(40) / 2), "y_train must", "0.5"),
        (npz(x_train=np.full((40, 8, 8, 3), np.nan)), "x_train", "nan"),
        (npz(x_train=np.array([None] * 40)), "x_train", "of numbers"),
    ],
    "sst2_lstm": [
        (
            function("give(np.pad(IDS, ((0, 0), (3, 0))), LABELS, **WORDS)"),
            "padding='post'",
            "[0, 0, 0, 1, 2] in row 0",
        ),
    ],
    "ud_pos_transformer": [
        (
            function("give(IDS, IDS % 3, word_counts=np.ones(2), **WORDS)"),
            "word_counts of that length",
            "vocabulary_size 5",
        ),
        (conllu("1\tle\n"), "line 1 of", "is not a line of CoNLL-U"),
        (conllu(""), "no sentences", "train"),
        (conllu(LINE + LINE), "line 2 of", "must be word 2"),
        (conllu(LINE.encode() + b"\xe9\n"), "line 2 of", "not UTF-8"),
        (conllu(LINE.replace("\tl\t", "\t_\t")), "no XPOS", "--tags upos"),
        (conllu(LINE, "train"), "no file whose name ends with", "dev.conllu"),
    ],
    "ogbg_gcn": [
        (
            function(
                "give(as_array([Graph(np.ones((2, 2)), np.array([[0], [7]]))] * 9), "
                "TASKS, **NODES)"
            ),
            "nodes from 0 to 1",
            "[[0], [7]]",
        ),
        (spektral(A), "a label y", "none"),
        (spektral("a=np.full((3, 3), np.inf), y=i % 2"), "finite numbers", "infinity"),
        (spektral(f"{A}, y=np.ones(1 + i % 2)"), "labels of one length", "9 graphs"),
        (spektral(f"{A}, y=np.eye(3)"), "for the graph", "(3, 3)"),
        (spektral(f"{A}, y=0", 1), "two graphs or more", "1 graphs"),
        (spektral(f"{A}, y=0"), "both 0 and 1", "none with both"),
    ],
    "graph_regression": [
        (text("d.sdf", ""), "must hold molecules", "none"),
        (text("d.sdf", "not\nan\nSDF\n$$$$\n"), "RDKit can read", "1 that it cannot"),
        (text("d.sdf", MOLECULE.format("")), "called label, class", "none"),
        (
            text("d.sdf", MOLECULE.format(">  <label>\nhigh\n\n")),
            "a finite number as label",
            "high",
        ),
        (
            text("d.sdf", MOLECULE.format(">  <label>\n1\xb0\n\n").encode("latin-1")),
            "properties",
            "not UTF-8",
        ),
        (lambda folder: str(folder / "gone.sdf"), "there is no such file", "gone.sdf"),
    ],
}


@pytest.mark.parametrize(
    ("workload", "write", "rule", "received"),
    [(workload, *case) for workload, cases in BAD.items() for case in cases],
)
def test_it_is_refused_in_one_line(tmp_path, capsys, workload, write, rule, received):
    (tmp_path / "data").mkdir()
    dataset = write(tmp_path / "data")
    places = ["--run_dir", str(tmp_path / "runs")]
    places += ["--tracking_uri", f"sqlite:///{tmp_path}/db"]
    given = [f"workloads/{workload}", "--dataset", dataset, *places]
    assert command.main(given) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith("run.py: --dataset")
    assert rule in message
    assert received in message
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
