"""Data of a user's own, small, of each kind of source, as files on disk, and what runs
on them in a second."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

NUM = 40  # examples
WORDS, MOLECULES = ("alpha", "beta", "gamma"), ("CCO", "CCN", "CCC", "c1ccccc1", "CO")
NARROW = ("--width_mult", "0.0625")
TINY = ("--batch_size", "8", "--epochs", "2")
STEPS = ("--steps", "8", "--eval_every", "4", "--batch_size", "8", "--depth", "1")
STEPS += ("--warmup_steps", "2")


@dataclass(frozen=True)
class Source:
    """One kind of data.

    Attributes:
        make: writes it into an empty folder, and says what --dataset is then called.
        workload: that trains on it.
        options: that make this short; NARROW makes it small.
        shown: what is said of it, in words of which all are there.
        learning: options of a run that learns what there is to learn.
    """

    make: Callable[[Path], str]
    workload: str
    options: tuple[str, ...]
    shown: tuple[str, ...]
    learning: tuple[str, ...]


def images() -> tuple[np.ndarray, np.ndarray]:
    """Of three classes, one brighter than the other."""
    rng = np.random.default_rng(0)
    labels = np.arange(NUM) % 3
    pixels = rng.integers(0, 60, (NUM, 8, 8, 3)) + 60 * labels[:, None, None, None]
    return pixels.astype("uint8"), labels.astype("int32")


def write_images(folder: Path, suffix: str = ".png", part: str = "") -> str:
    for number, (pixels, label) in enumerate(zip(*images(), strict=True)):
        place = folder / "pictures" / part / WORDS[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:03}{suffix}")
    return str(folder / "pictures")


def write_parts(folder: Path) -> str:
    write_images(folder, ".jpg", "train")
    return write_images(folder, ".jpg", "val")


def write_npz(folder: Path) -> str:
    x, y = images()
    np.savez(folder / "d.npz", x_train=x, y_train=y, x_test=x[:10], y_test=y[:10])
    return str(folder / "d.npz")


def write_table(folder: Path) -> str:
    rows = (f"so {WORDS[i % 3]} it is,{WORDS[i % 3]}" for i in range(NUM))
    (folder / "texts.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    return str(folder / "texts.csv")


def write_tables(folder: Path) -> str:
    for part, count in (("train", NUM), ("dev", 10)):
        rows = (
            f'{{"text": "so {WORDS[i % 2]} it is", "label": {i % 2}}}\n'
            for i in range(count)
        )
        (folder / f"texts-{part}.jsonl").write_text("".join(rows))
    return str(folder)


def write_columns(folder: Path) -> str:
    lines = (f"le D\n{WORDS[i % 3]} N{i % 3}\nfut V\n\n" for i in range(NUM))
    (folder / "tags.txt").write_text("".join(lines))
    return str(folder / "tags.txt")


def write_treebank(folder: Path) -> str:
    words = (f"{WORDS[i % 3]}\t_\tNOUN\tN{i % 3}" for i in range(NUM))
    rest = "\t_" * 5
    lines = (f"1\tle\t_\tDET\tD{rest}\n2\t{word}{rest}\n\n" for word in words)
    text = "".join(lines)
    for part in ("train", "dev"):
        (folder / f"x-{part}.conllu").write_text(text)
    return str(folder)


def write_smiles(folder: Path) -> str:
    rows = (
        f"{MOLECULES[i % 5]},{i % 2 if i % 7 else ''},{i % 5 % 2}" for i in range(NUM)
    )
    (folder / "molecules.csv").write_text("smiles,a,b\n" + "\n".join(rows) + "\n")
    return str(folder / "molecules.csv")


def write_sdf(folder: Path) -> str:
    from rdkit import Chem

    blocks = (
        f"{Chem.MolToMolBlock(Chem.MolFromSmiles(MOLECULES[i % 5]))}>  <label>\n"
        f"{i % 5 / 4}\n\n$$$$\n"
        for i in range(NUM)
    )
    (folder / "molecules.sdf").write_text("".join(blocks))
    return str(folder / "molecules.sdf")


RINGS = f"""
import numpy as np
from spektral.data import Dataset, Graph


class Rings(Dataset):
    def read(self):
        return [self.ring(3 + i % 4) for i in range({NUM})]

    def ring(self, size):
        a = np.roll(np.eye(size), 1, axis=0)
        return Graph(x=np.eye(size)[:, :2] / 2, a=a + a.T, y=size % 2)
"""


def write_rings(folder: Path) -> str:
    (folder / "rings.py").write_text(RINGS)
    return f"{folder / 'rings.py'}:Rings"


FUNCTION = f"""
import numpy as np
from samkeras.workload import DataInfo, Splits


def load():
    rng = np.random.default_rng(0)
    y = np.arange({NUM}, dtype="int32") % 3
    x = (rng.integers(0, 60, ({NUM}, 8, 8, 1)) + 60 * y[:, None, None, None])
    info = DataInfo("mine", (8, 8, 1), 3, None, None, num_classes=3)
    x = x.astype("uint8")
    return Splits(info, lambda: ((x[:30], y[:30]), (x[30:], y[30:])))
"""


def write_function(folder: Path) -> str:
    (folder / "mine.py").write_text(FUNCTION)
    return f"{folder / 'mine.py'}:load"


RESNET = ("--batch_size", "8", "--image_size", "32", "--warmup_steps", "2")
LEARNING = ("--batch_size", "8", "--width_mult", "0.25")
LEARNING += ("--optimizer", "adam", "--learning_rate", "0.005", "--epochs")
SOON, LATER, LATEST = ((*LEARNING, epochs) for epochs in ("30", "100", "300"))
TAGGING = ("--steps", "100", "--eval_every", "50", "--batch_size", "8", "--depth", "1")
TAGGING += ("--warmup_steps", "5", "--learning_rate", "0.005", "--width_mult", "0.125")
SOURCES = {
    "images in folders": Source(
        write_images,
        "mnist_mlp",
        TINY,
        ("34 examples of 8 x 8 x 3", "alpha 12, beta 11, gamma 11", "0.3529 (alpha)"),
        LATEST,
    ),
    "images on disk": Source(
        write_parts,
        "imagenet_resnet50",
        (*RESNET, "--epochs", "2"),
        ("40 examples of 32 x 32 x 3", "alpha 14, beta 13, gamma 13", "0.3500 (alpha)"),
        (*RESNET, *NARROW, "--epochs", "12"),
    ),
    "arrays": Source(
        write_npz,
        "mnist_mlp",
        TINY,
        ("40 examples of 8 x 8 x 3", "0 14, 1 13, 2 13", "0.3500 (0)"),
        LATEST,
    ),
    "a table of texts": Source(
        write_table,
        "sst2_lstm",
        (*TINY, "--max_length", "8"),
        (
            "34 examples of 6 to 6 words, 6.0 in the mean",
            "3 classes: alpha 12, beta 11, gamma 11",
            "0.3529 (alpha)",
        ),
        (*SOON, "--max_length", "8"),
    ),
    "tables of texts": Source(
        write_tables,
        "sst2_lstm",
        (*TINY, "--max_length", "8"),
        ("validation: 10 examples", "2 classes: 0 20, 1 20", "0.5000 (0)"),
        (*SOON, "--max_length", "8"),
    ),
    "tags in columns": Source(
        write_columns,
        "ud_pos_transformer",
        STEPS,
        ("32 examples of 3 to 3 words", "D 32, V 32", "0.3333 (D)"),
        TAGGING,
    ),
    "a treebank": Source(
        write_treebank,
        "ud_pos_transformer",
        STEPS,
        ("40 examples of 2 to 2 words", "D 40, N0 14, N1 13", "0.5000 (D)"),
        TAGGING,
    ),
    "molecules in a table": Source(
        write_smiles,
        "ogbg_gcn",
        (*TINY, "--depth", "1"),
        ("of 2 to 6 nodes", "a: ", "missing; majority", "b: "),
        (*LATER, "--depth", "2"),
    ),
    "numbers of molecules": Source(
        write_sdf,
        "graph_regression",
        (*TINY, "--depth", "1"),
        ("of 2 to 6 nodes", "label: from 0 to 1, mean 0.539062, variance 0.12933"),
        (*LATER, "--depth", "2"),
    ),
    "graphs of spektral": Source(
        write_rings,
        "ogbg_gcn",
        (*TINY, "--depth", "1"),
        ("of 3 to 6 nodes, 4.5 in the mean", "16 of 32 are 1, 0 missing; majority 0.5"),
        (*LATER, "--depth", "2"),
    ),
    "a function": Source(
        write_function,
        "mnist_mlp",
        TINY,
        ("30 examples of 8 x 8 x 1", "0 10, 1 10, 2 10", "0.3333 (0)"),
        LATEST,
    ),
}
