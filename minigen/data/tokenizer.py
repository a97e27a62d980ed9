r"""Text to integers and back: the words of the captions, and byte pairs learnt from any text.

**Words.** The captions' language has a closed vocabulary (`data/captions.py`), so a token is a word. A prompt becomes
its words and ``<eos>``, padded with ``<pad>`` to a fixed length that the longest caption fits exactly. The empty
prompt is ``<eos>`` alone: it is the NULL prompt that classifier-free guidance trains and samples with, and no caption.
``<bos>`` is for models that need something before the first word; ``encode`` never writes it.

**Byte pairs** (Gage 1994, "A new algorithm for data compression"; Sennrich et al. 2016, arXiv 1508.07909; on bytes:
Radford et al. 2019, GPT-2). Start from the 256 bytes and repeatedly make the most frequent pair of neighbours a new
token. Every Unicode string is a string of bytes, so nothing is ever unknown.

| symbol | code |
|---|---|
| token $k < 256$, $256 + j$ | byte $k$, the j-th merge: ``merges[j]`` $= (left, right)$ |
| chunk | a word with the one space before it, or a run of white space: no token crosses the edge of one |
| count of a pair | at how many positions of the text it stands ("aaa" has (a, a) twice) |
| next merge | the pair with the largest count; of equals the smallest (left, right); never one that occurs only once |

To encode, a chunk's pairs are merged in the order in which they were learnt, each from left to right, which is what
training did to the same chunk.

You need: `data/captions.py`. New here: a vocabulary that is learnt, and counts that are updated instead of redone.

Details that matter, and the tests that guard them (tests/minigen/data/test_tokenizer.py):
- an unknown word is an error that names it, never a silent <unk> that the model cannot tell from another;
- the null prompt is tokens of its own in a new array, so writing it into a batch cannot change the caption's tokens;
- <eos> is found by the mask, not as the largest id of a row;
- a merge changes only the chunks that hold its pair, and the counts afterwards equal a fresh count.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from heapq import heapify, heappop, heappush
from operator import index
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from kernels.backend import Array

from .captions import WORDS, cut, words

LENGTH = 20  # "a picture of a little red circle to the left of a little blue square on a white background" and <eos>
Pair = tuple[int, int]


class WordTokenizer:
    """The captions' words as integers. The same for everybody: it has no settings but the ``length`` of its rows."""

    pad, bos, eos = 0, 1, 2

    def __init__(self, length: int = LENGTH):
        if length < 1:
            raise ValueError(f"length must be at least 1, for <eos>, got {length}")
        self.length = length
        self.vocabulary = ("<pad>", "<bos>", "<eos>", *WORDS)
        self._number = {word: i for i, word in enumerate(self.vocabulary)}

    def __len__(self) -> int:
        return len(self.vocabulary)

    @property
    def null(self) -> Int64[Array, " t"]:
        """The null prompt: what the empty string encodes to."""
        return self.encode("")

    def encode(self, text: str) -> Int64[Array, " t"]:
        """One prompt: its words, <eos>, and <pad> up to ``length``.

        Raises ValueError for words that the captions do not have, with the nearest that they have, and for a prompt
        that is too long.
        """
        found = words(text)
        if len(found) >= self.length:
            raise ValueError(f"the prompt {cut(text)} has {len(found)} words, at most {self.length - 1} fit")
        row = np.full(self.length, self.pad, np.int64)
        row[: len(found) + 1] = [*(self._number[word] for word in found), self.eos]
        return row

    def batch(self, texts: Sequence[str]) -> tuple[Int64[Array, "n t"], Bool[Array, "n t"]]:
        """The rows of several prompts, and which of their tokens are not padding (words and <eos>)."""
        if isinstance(texts, str):
            raise TypeError(f"texts must be a list of prompts, got the string {texts!r}")
        tokens = np.stack([self.encode(text) for text in texts]) if len(texts) else np.zeros((0, self.length), np.int64)
        return tokens, tokens != self.pad

    def decode(self, tokens: Any) -> str:
        """The words before the first <eos>, with a space between; <pad> and <bos> are skipped.

        Raises ValueError for anything but integers that are tokens.
        """
        found = []
        for token in map(_integer, np.asarray(tokens).ravel().tolist()):
            if not 0 <= token < len(self):
                raise ValueError(f"tokens must be in 0..{len(self) - 1}, got {token}")
            if token == self.eos:
                break
            found += [self.vocabulary[token]] if token not in (self.pad, self.bos) else []
        return " ".join(found)


def _integer(token: Any) -> int:
    try:
        return index(token)
    except TypeError:
        raise ValueError(f"tokens must be integers, got {token!r}") from None


# --- byte pairs -------------------------------------------------------------------------------------------------------

_CHUNK = re.compile(r" ?\S+|\s+(?!\S)|\s+")  # every character is in exactly one chunk


class BytePair:
    """A byte-pair vocabulary: 256 bytes and one token for each of ``merges``. Encoding and decoding are exact inverses."""

    def __init__(self, merges: Iterable[Sequence[int]] = ()):
        self.merges: tuple[Pair, ...] = tuple((int(a), int(b)) for a, b in merges)
        self.tokens = [bytes([k]) for k in range(256)]  # what each token stands for
        for j, (a, b) in enumerate(self.merges):
            if not (0 <= a < 256 + j and 0 <= b < 256 + j):
                raise ValueError(f"merge {j} must join two earlier tokens, 0..{255 + j}, got {(a, b)}")
            self.tokens.append(self.tokens[a] + self.tokens[b])
        self._rank = {pair: j for j, pair in enumerate(self.merges)}
        if len(self._rank) < len(self.merges):
            raise ValueError("merges must be different pairs")
        self._encode_chunk = lru_cache(maxsize=2**14)(self._merged)  # words recur

    def __len__(self) -> int:
        return len(self.tokens)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.merges,)  # the cache cannot be pickled

    @classmethod
    def train(cls, text: str, merges: int) -> "BytePair":
        """Learn at most ``merges`` merges from a text; fewer if no pair occurs twice.

        Raises ValueError for a negative number.
        """
        if merges < 0:
            raise ValueError(f"merges must be at least 0, got {merges}")
        return cls(_learn(Counter(_CHUNK.findall(text)), merges))

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        return [token for chunk in _CHUNK.findall(text) for token in self._encode_chunk(chunk)]

    def decode(self, tokens: Iterable[Any]) -> str:
        """The text of tokens; bytes that are no UTF-8 (a sample may end inside a character) become U+FFFD.

        Raises ValueError for anything but integers that are tokens.
        """
        numbers = [_integer(token) for token in tokens]
        if numbers and not (min(numbers) >= 0 and max(numbers) < len(self)):
            raise ValueError(f"tokens must be in 0..{len(self) - 1}, got {min(numbers)}..{max(numbers)}")
        data = b"".join(self.tokens[number] for number in numbers)
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return data.decode("utf-8", "replace")

    def _merged(self, chunk: str) -> tuple[int, ...]:
        sequence = _bytes(chunk)
        while len(sequence) > 1:
            first = min(zip(sequence, sequence[1:]), key=lambda pair: self._rank.get(pair, len(self.merges)))
            if first not in self._rank:
                break
            sequence = _join(sequence, first, 256 + self._rank[first])
        return tuple(sequence)


def _bytes(chunk: str) -> list[int]:
    return list(chunk.encode("utf-8", "surrogatepass"))  # half a surrogate pair is no character, but a Python string


def _join(sequence: list[int], pair: Pair, token: int) -> list[int]:
    """The sequence with every ``pair``, from left to right, replaced by ``token``."""
    joined, i = [], 0
    while i < len(sequence):
        here = tuple(sequence[i : i + 2]) == pair
        joined.append(token if here else sequence[i])
        i += 2 if here else 1
    return joined


def _learn(chunks: Counter[str], merges: int) -> list[Pair]:
    """The merges of a text, given how often it holds each chunk."""
    sequences, times = [_bytes(chunk) for chunk in chunks], list(chunks.values())
    counts: Counter[Pair] = Counter()
    where: dict[Pair, set[int]] = defaultdict(set)  # chunks that hold a pair, or used to
    for i, sequence in enumerate(sequences):
        for pair in zip(sequence, sequence[1:]):
            counts[pair] += times[i]
            where[pair].add(i)
    queue = [(-count, pair) for pair, count in counts.items()]
    heapify(queue)
    learnt: list[Pair] = []
    while len(learnt) < merges and queue:
        count, pair = heappop(queue)
        if counts[pair] != -count:
            continue  # an old count; the present one is in the queue too
        if count > -2:
            break
        changed: set[Pair] = set()
        for i in where.pop(pair):
            before, after = sequences[i], _join(sequences[i], pair, 256 + len(learnt))
            for sequence, sign in ((before, -1), (after, 1)):
                for neighbours in zip(sequence, sequence[1:]):
                    counts[neighbours] += sign * times[i]
                    changed.add(neighbours)
                    if sign > 0:
                        where[neighbours].add(i)
            sequences[i] = after
        for neighbours in changed:
            if counts[neighbours] > 0:
                heappush(queue, (-counts[neighbours], neighbours))
        learnt.append(pair)
    return learnt
