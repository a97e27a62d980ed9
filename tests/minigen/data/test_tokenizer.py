"""Words and byte pairs: exact inverses, merges that are known by hand, and errors that name the word."""

import copy
import json
import pickle
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scenes import scene_of, scenes

from minigen.data.captions import paraphrases
from minigen.data.tokenizer import LENGTH, BytePair, WordTokenizer, _bytes, _join

WORDS = WordTokenizer()


# --- words ------------------------------------------------------------------------------------------------------------


@given(scenes)
def test_words_round_trip_for_every_paraphrase(description):
    scene = scene_of(description)
    texts = list(paraphrases(scene))
    tokens, mask = WORDS.batch(texts)
    assert tokens.shape == mask.shape == (len(texts), LENGTH) and tokens.dtype == np.int64 and mask.dtype == bool
    for text, row, kept in zip(texts, tokens, mask):
        assert WORDS.decode(row) == text and np.array_equal(WORDS.encode(text), row)
        n = len(text.split())
        assert kept.tolist() == [True] * (n + 1) + [False] * (LENGTH - n - 1)  # the words and <eos>
        assert row[n] == WORDS.eos and np.all(row[n + 1 :] == WORDS.pad) and np.all(row[:n] > WORDS.eos)


def test_word_tokens_by_hand():
    assert len(WORDS) == 47 and WORDS.vocabulary[:4] == ("<pad>", "<bos>", "<eos>", "a")
    red, circle = WORDS.vocabulary.index("red"), WORDS.vocabulary.index("circle")
    assert WordTokenizer(6).encode("A red circle").tolist() == [3, red, circle, 2, 0, 0]
    assert (
        WORDS.decode([1, 3, red, 0, circle, 2, circle]) == "a red circle"
    )  # <bos>, <pad> and all after <eos> are silent


def test_the_null_prompt_is_eos_alone_and_new_each_time():
    null = WORDS.null
    assert null.tolist() == [WORDS.eos] + [WORDS.pad] * (LENGTH - 1) == WORDS.encode("").tolist()
    assert WORDS.decode(null) == ""
    null[:] = 7
    assert WORDS.null[0] == WORDS.eos


def test_the_longest_caption_fits_exactly():
    longest = "a picture of a little red circle to the left of a little blue square on a white background"
    assert len(longest.split()) == LENGTH - 1 and WORDS.encode(longest)[-1] == WORDS.eos
    with pytest.raises(ValueError, match="20 words, at most 19 fit"):
        WORDS.encode("a " + longest)
    with pytest.raises(ValueError, match=r"\.\.\.' has 3000 words, at most 19 fit") as told:
        WORDS.encode("a red circle " * 1000)
    assert len(str(told.value)) < 150


def test_bad_prompts_and_tokens_are_named():
    with pytest.raises(ValueError, match=r"'sqare' \(nearest known: 'square'\)"):
        WORDS.encode("a red sqare")
    with pytest.raises(ValueError, match=r"tokens must be in 0\.\.46, got 47"):
        WORDS.decode([3, 47])
    with pytest.raises(TypeError, match="list of prompts, got the string"):
        WORDS.batch("a red circle")
    with pytest.raises(ValueError, match="length must be at least 1"):
        WordTokenizer(0)


def test_a_batch_of_no_prompts():
    tokens, mask = WORDS.batch([])
    assert tokens.shape == mask.shape == (0, LENGTH)


# --- byte pairs -------------------------------------------------------------------------------------------------------


def pieces(text, merges):
    return [bytes(token) for token in BytePair.train(text, merges).tokens[256:]]


def test_merges_by_hand():
    """low x5, lower x2, newest x6, widest x3 (Sennrich et al. 2016, algorithm 1), a space before each word but the first.

    Counts: es 9, st 9, we 8, lo 7, ow 7, ... Of equals the pair of the smaller bytes comes first: (e, s) before (s, t).
    """
    text = " ".join(["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3)
    # " n" 6, "ne" 6, "ew" 6, "we" 8, "es" 9, "st" 9; " w" 3, "wi" 3, "id" 3, "de" 3; "lo" 7, "ow" 7, " l" 6; "er" 2
    assert pieces(text, 4) == [b"es", b"est", b"lo", b"low"]
    # then " n", "ew" (e, w), "ne", "west" (w, est) and " low" have 6 each: (" ", n) is the smallest pair
    assert pieces(text, 6) == [b"es", b"est", b"lo", b"low", b" n", b" low"]


@pytest.mark.parametrize(
    ("text", "merges", "found"),
    [
        ("", 5, []),
        ("ab", 5, []),  # no pair stands there twice
        ("aaa", 5, [b"aa"]),  # two positions of (a, a)
        ("aaaa", 5, [b"aa"]),  # three positions, then (aa, aa) once
        ("abab", 5, [b"ab"]),
        ("abab", 0, []),
        ("ab ab ab", 1, [b"ab"]),
        ("ab ab ab", 9, [b"ab", b" ab"]),
        ("ba ab ba ab", 1, [b" a"]),  # "ba" " ab" " ba" " ab": (space, a), (a, b) and (b, a) twice, a space is smallest
    ],
)
def test_small_texts(text, merges, found):
    assert pieces(text, merges) == found


def learnt_slowly(text, merges):
    """The definition: count every pair afresh for each merge."""
    chunks = [_bytes(chunk) for chunk in re.findall(r" ?\S+|\s+(?!\S)|\s+", text)]
    found = []
    for j in range(merges):
        counts = Counter(pair for chunk in chunks for pair in pairwise(chunk))
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        found.append(best)
        chunks = [_join(chunk, best, 256 + j) for chunk in chunks]
    return tuple(found)


@given(st.text("ab c\n", max_size=60), st.integers(0, 12))
def test_kept_up_counts_give_the_merges_of_fresh_counts(text, merges):
    assert BytePair.train(text, merges).merges == learnt_slowly(text, merges)


TRAINED = BytePair.train("the cat sat on the mat, the rat sat on the cat; naïve café, naïve café" * 3, 60)


@given(st.text(st.characters(), max_size=40))
@example("half a pair \ud83d, the other \udc00")  # no characters, but strings of Python
def test_any_string_comes_back(text):
    for tokenizer in (BytePair(), TRAINED):
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text
        assert b"".join(tokenizer.tokens[t] for t in tokens) == text.encode("utf-8", "surrogatepass")
    assert BytePair().encode(text) == list(text.encode("utf-8", "surrogatepass"))


@given(st.text(st.sampled_from("theca sno,;ïé\n\t 😀"), max_size=60))
def test_encoding_does_to_a_text_what_training_did(text):
    """Applying the merges one after another to each chunk gives the same tokens as taking the earliest-learnt pair."""
    tokens = []
    for chunk in re.findall(r" ?\S+|\s+(?!\S)|\s+", text):
        sequence = _bytes(chunk)
        for j, pair in enumerate(TRAINED.merges):
            sequence = _join(sequence, pair, 256 + j)
        tokens += sequence
    assert TRAINED.encode(text) == tokens


def test_learnt_words_are_single_tokens():
    assert [TRAINED.tokens[t] for t in TRAINED.encode("the cat sat")] == [b"the", b" cat", b" sat"]
    assert len(TRAINED.encode(" naïve café")) == 2


def test_training_does_not_depend_on_hashes_and_merges_are_json():
    again = BytePair(json.loads(json.dumps([list(pair) for pair in TRAINED.merges])))
    assert again.merges == TRAINED.merges and len(again) == len(TRAINED) == 256 + len(TRAINED.merges)
    assert again.encode("naïve rat") == TRAINED.encode("naïve rat")


@pytest.mark.parametrize("again", [lambda t: pickle.loads(pickle.dumps(t)), copy.deepcopy])
def test_a_tokenizer_can_be_pickled_and_copied(again):
    TRAINED.encode("the cat")  # something is in the cache
    other = again(TRAINED)
    assert type(other) is BytePair and other.merges == TRAINED.merges
    assert other.encode("naïve rat") == TRAINED.encode("naïve rat") and other.decode(other.encode("cat")) == "cat"


@pytest.mark.parametrize("tokenizer", [WORDS, TRAINED])
def test_tokens_are_integers(tokenizer):
    for bad in ([3.7], np.array([3.7]), ["3"], [None], [float("nan")]):
        with pytest.raises(ValueError, match="tokens must be integers, got"):
            tokenizer.decode(bad)
    assert tokenizer.decode(np.array([5, 6], np.uint16)) == tokenizer.decode([5, 6])
    assert tokenizer.decode([]) == tokenizer.decode(np.zeros(0)) == ""


def test_bytes_that_are_no_text_are_shown_as_such():
    cut = "é".encode()[:1]
    assert BytePair().decode([97, *cut]) == "a\N{REPLACEMENT CHARACTER}"


def test_bad_merges_and_tokens_are_named():
    with pytest.raises(ValueError, match=r"tokens must be in 0\.\.255, got 5\.\.256"):
        BytePair().decode([5, 256])
    with pytest.raises(ValueError, match=r"merge 1 must join two earlier tokens, 0\.\.256, got \(257, 97\)"):
        BytePair([(97, 98), (257, 97)])
    with pytest.raises(ValueError, match="different pairs"):
        BytePair([(97, 98), (97, 98)])
    with pytest.raises(ValueError, match="merges must be at least 0"):
        BytePair.train("aa", -1)
