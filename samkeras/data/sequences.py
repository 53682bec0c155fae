"""Sentences as ids of words, padded to one of few lengths."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from samkeras.data.padding import bucket, fit_length

PAD, UNKNOWN = 0, 1
SPECIAL = ("<pad>", "<unk>")
NO_LABEL = -1
LENGTHS = (8, 16, 32, 64, 128, 256)


def build_vocabulary(
    sentences: Iterable[Iterable[str]], min_count: int = 1, marks: tuple[str, ...] = ()
) -> dict[str, int]:
    """The words of sentences and how often they occur, the most frequent first, of
    equal ones in the order of their letters; a word's id is its place. Ids 0 and 1 are
    padding and unknown words, which do not occur.

    Args:
        sentences: lists of words.
        min_count: words that occur less often are left out. Default 1, none.
        marks: words that have the ids from 2 on, however often they occur.
    """
    counts = Counter(word for sentence in sentences for word in sentence)
    kept = (word for word, count in counts.items() if count >= min_count)
    words = sorted(kept, key=lambda word: (-counts[word], word))
    return dict.fromkeys(SPECIAL, 0) | {w: counts[w] for w in (*marks, *words)}


def encode(
    sentences: list[list[str]],
    vocabulary: Iterable[str],
    max_length: int | None = None,
    *,
    fill: int = PAD,
    unknown: int = UNKNOWN,
    missing: str | None = None,
) -> np.ndarray:
    """Words, or labels of words, as ids: int32[sentence, word].

    Args:
        sentences: lists of words, of which the first `max_length` are taken.
        vocabulary: words in the order of their ids.
        max_length: words of a row. None (default): those of the longest sentence.
        fill: id where there are no words. Default 0.
        unknown: id of words that are not in the vocabulary. Default 1.
        missing: the word that stands for none, whose id is `fill`. None (default):
            there is no such word.
    """
    ids = {word: i for i, word in enumerate(vocabulary)} | {missing: fill}
    if max_length is None:
        max_length = max(map(len, sentences))
    rows = np.full((len(sentences), max_length), fill, "int32")
    for row, sentence in zip(rows, sentences, strict=True):
        found = [ids.get(word, unknown) for word in sentence[:max_length]]
        row[: len(found)] = found
    return rows


class SequenceCollate:
    """Cuts batches of padded sentences to one of few lengths: 8, 16, ..., 256, and
    multiples of 256 for longer ones.

    Args:
        has_token_labels: whether a label belongs to a word, y: int[sentence, word] with
            -1 where there is none, or to a sentence, y: [sentence, ...]. Default not.
    """

    def __init__(self, has_token_labels: bool = False):
        self._has_token_labels = has_token_labels

    def sizes(self, x: np.ndarray) -> np.ndarray:
        return np.count_nonzero(x != PAD, axis=1)

    def labels_per_example(self, y: np.ndarray) -> float:
        if not self._has_token_labels:
            return 1.0
        return np.count_nonzero(y != NO_LABEL) / len(y)

    def pad(self, x: np.ndarray, y: np.ndarray, size: int) -> tuple:
        length = bucket(int(size), LENGTHS)
        if self._has_token_labels:
            y = fit_length(y, length, NO_LABEL)
        return fit_length(x, length, PAD), y, np.ones(len(x), "float32")
