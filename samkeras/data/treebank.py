"""Sentences whose words have part-of-speech tags: TFDS, .conllu files, a sample."""

import functools
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from samkeras.data.sequences import (
    NO_LABEL,
    SequenceCollate,
    build_vocabulary,
    encode,
)
from samkeras.data.tfds_sets import check_data_dir, prepared_builder
from samkeras.errors import InputError
from samkeras.workload import DataInfo, Splits

SAMPLE = "morphgnt"
UNSEEN = -2  # a tag that no training sentence has: never learnt, always wrong
SENTENCE_ENDS = {".", ";"}  # in Greek the latter is the question mark
COLUMNS = 10  # of a word's line in a .conllu file

Sentence = tuple[list[str], list[str]]  # words, tags


def load_treebank(dataset: str, data_dir: str | None, max_length: int | None) -> Splits:
    """Words and their language-specific tags (XPOS), validated on the split "dev".

    Args:
        dataset: a treebank of TFDS, such as universal_dependencies/grc_perseus; a
            folder of .conllu files whose names end with train.conllu and dev.conllu; or
            "morphgnt", the Greek New Testament that the package py-sblgnt carries, in
            normalized words, of which each tenth sentence is to validate on.
        data_dir: directory of prepared TFDS sets, None for TFDS's own.
        max_length: words that longer sentences are cut to. None: they are not cut.

    Returns:
        x: int32[sentence, word], ids of words; 0 is padding, 1 a word that no training
        sentence has. y: int32[sentence, word], tags; -1 is padding, -2 a tag that no
        training sentence has.

    Raises:
        InputError: there is no such treebank, it cannot be read, or a split is empty.
    """
    train, validation = _read(dataset, data_dir)
    for name, sentences in (("train", train), ("dev", validation)):
        if not sentences:
            raise InputError(
                f"--dataset {dataset} has no sentences in its split {name}"
            )
    words = build_vocabulary(words for words, _ in train)
    tags = sorted({tag for _, tags in train for tag in tags})

    def arrays(sentences):
        x = encode([words for words, _ in sentences], words, max_length)
        y = encode(
            [tags for _, tags in sentences],
            tags,
            max_length,
            fill=NO_LABEL,
            unknown=UNSEEN,
        )
        return x, y

    unseen = {tag for _, tags in validation for tag in tags} - set(tags)
    notes = []
    if unseen:
        shown = ", ".join(sorted(unseen)[:3])
        notes = [
            f"{len(unseen)} tags of {dataset} are in no training sentence and count as "
            f"wrong: {shown}{', ...' if len(unseen) > 3 else ''}"
        ]
    return Splits(
        DataInfo(
            dataset,
            (None,),
            len(tags),
            len(train),
            len(validation),
            num_classes=len(tags),
            vocabulary_size=len(words),
            word_counts=tuple(words.values()),
        ),
        lambda: (arrays(train), arrays(validation)),
        collate=SequenceCollate(has_token_labels=True),
        files={"vocabulary.txt": "\n".join(words), "tags.txt": "\n".join(tags)},
        notes=notes,
    )


@functools.lru_cache(maxsize=1)
def _read(dataset: str, data_dir: str | None) -> tuple[list[Sentence], list[Sentence]]:
    """The sentences to train and to validate on; once for all runs of a grid."""
    if dataset == SAMPLE:
        return _read_sample()
    if Path(dataset).is_dir():
        return tuple(_read_folder(Path(dataset), name) for name in ("train", "dev"))
    if dataset.endswith(".conllu"):
        raise InputError(f"--dataset {dataset}: give the folder of the .conllu files")
    return _read_tfds(dataset, data_dir)


def _read_folder(folder: Path, split: str) -> list[Sentence]:
    paths = sorted(folder.glob(f"*{split}.conllu"))
    if not paths:
        raise InputError(
            f"--dataset {folder} has no file whose name ends with {split}.conllu"
        )
    return [sentence for path in paths for sentence in read_conllu(path)]


def read_conllu(path: Path) -> Iterator[Sentence]:
    """The sentences of a file in the CoNLL-U format: words and their XPOS.

    Lines of words that are written as one (1-2) or that are left out (1.1) are skipped.

    Raises:
        InputError: a line is not one of the format, or the file is not UTF-8.
    """
    words, tags = [], []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"--dataset: {path} is not UTF-8 ({error})") from None
    for number, line in enumerate([*lines, ""], 1):
        if line.startswith("#"):
            continue
        if not line.strip():
            if words:
                yield words, tags
            words, tags = [], []
            continue
        columns = line.split("\t")
        place = columns[0].replace("-", "").replace(".", "")
        if len(columns) != COLUMNS or not place.isdigit():
            raise InputError(
                f"--dataset: line {number} of {path} is not a line of CoNLL-U, a "
                f"number and {COLUMNS - 1} more columns between tabs. Received: "
                f"{line[:60]!r}"
            )
        if columns[0].isdigit():
            words.append(columns[1])
            tags.append(columns[4])


def _read_sample() -> tuple[list[Sentence], list[Sentence]]:
    package = find_spec("pysblgnt")
    if package is None:
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
    dataset: str, data_dir: str | None
) -> tuple[list[Sentence], list[Sentence]]:
    check_data_dir(data_dir)
    builder = prepared_builder(dataset, data_dir, sample=SAMPLE)
    missing = {"tokens", "xpos"} - set(builder.info.features)
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
    return tuple(_read_split(builder, split) for split in ("train", "dev"))


def _read_split(builder: Any, split: str) -> list[Sentence]:
    def decode(texts):
        return [text.decode() for text in texts.numpy()]

    dataset = builder.as_dataset(split=split)
    return [(decode(row["tokens"]), decode(row["xpos"])) for row in dataset]
