"""Sentences whose words have tags: TFDS, .conllu files, columns, a sample."""

import functools
import itertools
import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from samkeras.data.content import describe_files, mark_files
from samkeras.data.examples import ArrayExamples
from samkeras.data.names import is_function
from samkeras.data.sequences import (
    NO_LABEL,
    SequenceCollate,
    build_vocabulary,
    encode,
)
from samkeras.data.shares import HELD_OUT, choose_each
from samkeras.data.sources import call_function, cut
from samkeras.data.splits import DataInfo, Splits
from samkeras.data.tables import find_parts, read_lines
from samkeras.data.tfds_sets import check_data_dir, prepared_builder
from samkeras.errors import InputError

SAMPLE = "morphgnt"
UNSEEN = -2  # a tag that no training sentence has: never learnt, always wrong
# Of files of a word and its tag a line; CoNLL-2003's eng.train has none.
SUFFIXES = (".txt", ".tsv", ".conll", ".bio", ".iob", ".iob2", "")
DOCUMENT = "-DOCSTART-"
COMMENT = re.compile("#.*=")  # before a sentence, such as "# id 7 domain=en"
SPACES = re.compile(" +")
SENTENCE_ENDS = {".", ";"}  # in Greek the latter is the question mark
# Of a word's line in a .conllu file: number, word, ..., tags, five more.
COLUMNS = 10
TAG_COLUMNS = {"upos": 3, "xpos": 4}
NUMBER = re.compile(r"([0-9]{1,9})([-.][0-9]+)?")
# Large treebanks have their split in parts: train-a, train-a-1.
FILE_NAME = re.compile(r".*(train|dev|test)(-\w+)*\.conllu")
# The format's sign for a tag that is not given, and for words of withheld texts.
UNSPECIFIED = "_"

Sentence = tuple[list[str], list[str]]  # words, tags


def load_treebank(
    dataset: str, data_dir: str | None, max_length: int | None, tags: str = "xpos"
) -> Splits[ArrayExamples]:
    """Words and their tags, validated on the split "dev".

    Args:
        dataset: a treebank of TFDS, such as universal_dependencies/grc_perseus; a
            function, see samkeras.data.sources; a file of a word and its tag a line, or
            a folder of such files whose names end with train and dev, see
            `read_columns`; a folder of .conllu files whose names end with train.conllu
            and dev.conllu, or with the names of their parts, such as train-a.conllu; or
            "morphgnt", the Greek New Testament that the package py-sblgnt carries, in
            normalized words, of which each tenth sentence is to validate on.
        data_dir: directory of prepared TFDS sets, None for TFDS's own.
        max_length: words that longer sentences are cut to. None: they are not cut.
        tags: "xpos" (default), those of the language or treebank, or "upos", the 17
            that all of Universal Dependencies share.

    Returns:
        x: int32[sentence, word], ids of words; 0 is padding, 1 a word that no training
        sentence has or that is withheld. y: int32[sentence, word], tags; -1 is padding
        or a word without a tag, -2 a tag that no training sentence has. Sentences
        without any tag are left out.

    Raises:
        InputError: there is no such treebank, it cannot be read, or a split has no
            sentences, no words or no tags.
    """
    if is_function(dataset):
        return cut(call_function(dataset, "tags"), max_length)
    notes, content = list[str](), None
    path = Path(os.path.expanduser(dataset))
    if is_columns(dataset):
        if path.is_dir():
            *files, notes = find_parts(path, SUFFIXES)
            content = describe_files(path, map(str, itertools.chain(*files)))
        else:
            notes.append(
                f"{path.name} has no part to validate on: one in {HELD_OUT} is"
            )
    train, validation = (
        _keep_tagged(sentences, dataset, split, tags, max_length, notes)
        for sentences, split in zip(
            _read(dataset, data_dir, tags, mark_files(path)),
            ("train", "dev"),
            strict=True,
        )
    )
    words = build_vocabulary(filter(_is_given, words) for words, _ in train)
    known_tags = sorted({tag for _, found in train for tag in found if _is_given(tag)})
    if len(known_tags) < 2:
        raise InputError(
            f"--dataset {dataset} must have two tags or more in its split train. "
            f"Received: {known_tags[0]} alone"
        )

    def arrays(sentences):
        x = encode([words for words, _ in sentences], words, max_length)
        y = encode(
            [found for _, found in sentences],
            known_tags,
            max_length,
            fill=NO_LABEL,
            missing=UNSPECIFIED,
            unknown=UNSEEN,
        )
        return x, y

    unseen = {tag for _, found in validation for tag in found}
    unseen -= {*known_tags, UNSPECIFIED}
    if unseen:
        shown = ", ".join(sorted(unseen)[:3])
        notes.append(
            f"{len(unseen)} tags of {dataset} are in no training sentence and count as "
            f"wrong: {shown}{', ...' if len(unseen) > 3 else ''}"
        )
    return Splits(
        DataInfo(
            dataset,
            (None,),
            len(known_tags),
            len(train),
            len(validation),
            num_classes=len(known_tags),
            vocabulary_size=len(words),
            word_counts=tuple(words.values()),
        ),
        lambda: (arrays(train), arrays(validation)),
        collate=SequenceCollate(has_token_labels=True),
        files={"vocabulary.txt": "\n".join(words), "tags.txt": "\n".join(known_tags)},
        notes=notes,
        content=content,
    )


def is_columns(dataset: str) -> bool:
    """Whether a set is of files of a word and its tag a line: such a file, or a folder
    of them."""
    path = Path(os.path.expanduser(dataset))
    if path.is_dir() and dataset != SAMPLE:
        suffixes = {each.suffix for each in path.glob("[!.]*")}
        return bool(suffixes) and ".conllu" not in suffixes
    return path.is_file() and path.suffix.lower() != ".conllu"


def _is_given(text: str) -> bool:
    return text != UNSPECIFIED


def _keep_tagged(
    sentences: list[Sentence],
    dataset: str,
    split: str,
    tags: str,
    max_length: int | None,
    notes: list[str],
) -> list[Sentence]:
    """The sentences that have a tag. Adds to `notes` how many words miss something.

    Raises:
        InputError: there are none, or none of their words is given.
    """
    if not sentences:
        raise InputError(f"--dataset {dataset} has no sentences in its split {split}")
    kept = [s for s in sentences if any(map(_is_given, s[1][:max_length]))]
    if not kept:
        (other,) = set(TAG_COLUMNS) - {tags}
        hint = "" if is_columns(dataset) else f". Take the other tags: --tags {other}"
        raise InputError(
            f"--dataset {dataset} has no {tags.upper()} in its split {split}: all are "
            f"{UNSPECIFIED}{hint}"
        )
    num_words = sum(len(words) for words, _ in sentences)
    without_form, without_tag = (
        sum(texts[i].count(UNSPECIFIED) for texts in sentences) for i in (0, 1)
    )
    if without_form == num_words:
        raise InputError(
            f"--dataset {dataset} has no words in its split {split}: all are "
            f"{UNSPECIFIED}. Its text is withheld for its licence; the owners have it"
        )
    if without_form:
        notes.append(
            f"{dataset}, {split}: {without_form:,} of {num_words:,} words are withheld "
            "and taken as unknown"
        )
    if without_tag:
        notes.append(
            f"{dataset}, {split}: {without_tag:,} of {num_words:,} words have no "
            f"{tags.upper()} and are neither learnt nor scored"
        )
    return kept


@functools.lru_cache(maxsize=1)
def _read(
    dataset: str, data_dir: str | None, tags: str, files: tuple[Any, ...] = ()
) -> tuple[list[Sentence], list[Sentence]]:
    """The sentences to train and to validate on; once for all runs of a grid, as long
    as the `files` are the same."""
    if dataset == SAMPLE:
        if tags != "xpos":
            raise InputError(f"--dataset {SAMPLE} has tags of its own: --tags xpos")
        return _read_sample()
    folder = Path(os.path.expanduser(dataset))
    if is_columns(dataset):
        return _read_columns(folder, tags)
    if folder.is_dir():
        return _read_folder(folder, "train", tags), _read_folder(folder, "dev", tags)
    if dataset.endswith(".conllu"):
        raise InputError(f"--dataset {dataset}: give the folder of the .conllu files")
    return _read_tfds(dataset, data_dir, tags)


def _read_folder(folder: Path, split: str, tags: str) -> list[Sentence]:
    found = [FILE_NAME.fullmatch(name) for name in sorted(os.listdir(folder))]
    names = [match[0] for match in found if match and match[1] == split]
    if not names:
        raise InputError(
            f"--dataset {folder} has no file whose name ends with {split}.conllu, or "
            f"with a part's name such as {split}-a.conllu"
        )
    return [sentence for name in names for sentence in read_conllu(folder / name, tags)]


def read_conllu(path: Path, tags: str = "xpos") -> Iterator[Sentence]:
    """The sentences of a file in the CoNLL-U format: words and their tags.

    Lines of words that are written as one (1-2) or that are left out (1.1) are skipped.

    Raises:
        InputError: a line is not one of the format, or the file cannot be read or is
            not UTF-8.
    """
    words, found = [], []
    tag_column = TAG_COLUMNS[tags]
    for number, line in enumerate([*read_lines(path), ""], 1):
        if line.startswith("#"):
            continue
        if not line.strip(" \t"):
            if words:
                yield words, found
            words, found = [], []
            continue
        columns = line.split("\t")
        place = NUMBER.fullmatch(columns[0])
        is_complete = len(columns) == COLUMNS and columns[1] and columns[tag_column]
        if not place or not is_complete:
            raise InputError(
                f"--dataset: line {number} of {path} is not a line of CoNLL-U, a "
                f"number and {COLUMNS - 1} more columns between tabs. Received: "
                f"{line[:60]!r}"
            )
        if place[2]:
            continue
        if int(place[1]) != len(words) + 1:
            raise InputError(
                f"--dataset: line {number} of {path} must be word {len(words) + 1}, or "
                f"an empty line that ends the sentence. Received: {line[:60]!r}"
            )
        words.append(columns[1])
        found.append(columns[tag_column])


def _read_columns(path: Path, tags: str) -> tuple[list[Sentence], list[Sentence]]:
    if tags != "xpos":
        raise InputError(f"--dataset {path} has tags of its own: --tags xpos")
    if path.is_dir():
        train, validation = (
            [sentence for file in files for sentence in read_columns(file)]
            for files in find_parts(path, SUFFIXES)[:2]
        )
        _check_words(train, path)
        return train, validation
    sentences = [*read_columns(path)]
    _check_words(sentences, path)
    # A file may be sorted: its first N sentences should be a sample of all.
    order = np.random.default_rng(0).permutation(len(sentences))
    chosen = choose_each(np.zeros(len(order), "int32"))
    train, validation = (
        [sentences[i] for i in part] for part in (order[~chosen], order[chosen])
    )
    return train, validation


def _check_words(sentences: list[Sentence], path: Path) -> None:
    """Raises an InputError where what should be words are numbers of words."""
    are_numbers = (
        words == [*map(str, range(1, len(words) + 1))] for words, _ in sentences
    )
    if sentences and all(are_numbers):
        raise InputError(
            f"--dataset {path} must have a word first in each line. Received: numbers "
            "of words; files of CoNLL-U are called .conllu"
        )


def read_columns(path: Path) -> Iterator[Sentence]:
    """The sentences of a file of columns between tabs or else spaces: the first is a
    word, the last its tag; an empty line ends a sentence. CoNLL-2003's lines -DOCSTART-
    are left out, and so are comments, lines before a sentence that begin with # and
    have a =.

    Raises:
        InputError: a line has not the columns of the first one, or the file cannot be
            read or is not UTF-8.
    """
    words, found, columns = [], [], None
    for number, line in enumerate([*read_lines(path), ""], 1):
        if not line.strip():
            if words:
                yield words, found
            words, found = [], []
            continue
        if not words and COMMENT.match(line):
            continue
        # Other white space, such as a no-break space, may be of a word.
        fields = line.split("\t") if "\t" in line else SPACES.split(line.strip(" "))
        fields = [field.strip(" ") for field in fields]
        if fields[0] == DOCUMENT:
            continue
        columns = columns or max(2, len(fields))
        if len(fields) != columns or not fields[0] or not fields[-1]:
            raise InputError(
                f"--dataset: line {number} of {path} must have {columns} columns, a "
                f"word first and its tag last. Received: {line[:60]!r}"
            )
        words.append(fields[0])
        found.append(fields[-1])


def _read_sample() -> tuple[list[Sentence], list[Sentence]]:
    package = find_spec("pysblgnt")
    if package is None or package.origin is None:
        raise InputError(
            f"--dataset {SAMPLE} is carried by the package py-sblgnt: "
            "pip install py-sblgnt"
        )
    sentences, words, tags = [], [], []
    for path in sorted((Path(package.origin).parent / "sblgnt").glob("*-morphgnt.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            # The normalized words differ not by the accents and elisions that their
            # neighbours cause.
            _, part_of_speech, parse, _, text, _, word, _ = line.split()
            words.append(word)
            tags.append(f"{part_of_speech} {parse}")
            if SENTENCE_ENDS & set(text):
                sentences.append((words, tags))
                words, tags = [], []
    validation = sentences[9::10]
    del sentences[9::10]
    return sentences, validation


def _read_tfds(
    dataset: str, data_dir: str | None, tags: str
) -> tuple[list[Sentence], list[Sentence]]:
    check_data_dir(data_dir)
    builder = prepared_builder(dataset, data_dir, sample=SAMPLE)
    missing = {"tokens", tags} - set(builder.info.features)
    if missing:
        raise InputError(
            f"--dataset {dataset} has no {' and '.join(sorted(missing))} to tag with"
        )
    missing = [s for s in ("train", "dev") if s not in builder.info.splits]
    if missing:
        raise InputError(
            f"--dataset {dataset} needs the splits train and dev; it has "
            f"{', '.join(builder.info.splits)}"
        )
    return _read_split(builder, "train", tags), _read_split(builder, "dev", tags)


def _read_split(builder: Any, split: str, tags: str) -> list[Sentence]:
    features = builder.info.features
    names = features["upos"].feature.names if "upos" in features else ()
    sentences = []
    for row in builder.as_dataset(split=split):
        words = [text.decode() for text in row["tokens"].numpy()]
        given = {"upos": [names[i] for i in row["upos"].numpy()]} if names else {}
        if "xpos" in features:
            # TFDS has the word None where there is no tag.
            texts = (text.decode() for text in row["xpos"].numpy())
            given["xpos"] = [UNSPECIFIED if t == "None" else t for t in texts]
        # It keeps the lines that read_conllu skips, without any tag.
        kept = [any(map(_is_given, pair)) for pair in zip(*given.values(), strict=True)]
        sentences.append(
            (list(compress(words, kept)), list(compress(given[tags], kept)))
        )
    return sentences
