"""What is read from prompts: bounded, masked, keyed, and blind to nothing that a template leaves behind."""

from __future__ import annotations

from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from azeotrope.gateway.signals import prompts
from azeotrope.gateway.signals.conduct import WEIGHTS, suspicion, wording
from azeotrope.gateway.signals.imprint import CELLS, SIZE, TEMPLATES, WAVES, Printer
from azeotrope.gateway.signals.prompts import (
    BANDS,
    BINS,
    CHARACTERS,
    DIMENSIONS,
    ROWS,
    WORDS,
    Features,
    Reader,
    _minima,
    words_of,
)
from azeotrope.gateway.signals.seen import Flag
from azeotrope.maths.sketches import Words, mix

READER = Reader(b"secret")


def minima_of(shingles: Words) -> Words:
    """The minima of one text."""
    return _minima(shingles, np.zeros(len(shingles), dtype=np.int64), 1)[0]


texts = st.text(st.characters(exclude_categories=()), max_size=300)  # lone surrogates, too


def read(text: str) -> Features:
    found = READER.read(text)
    assert found is not None
    return found


@given(texts)
def test_any_text_is_read(text: str) -> None:
    found = READER.read(text)
    assert (found is None) == (not words_of(text))
    if found is not None:
        assert 1 <= found.words <= WORDS
        assert np.linalg.norm(found.unit()) == pytest.approx(1, abs=1e-4) or not any(found.vector)
        assert msgspec.json.decode(msgspec.json.encode(found), type=Features) == found


@given(texts, texts)
def test_only_the_beginning_is_looked_at(text: str, tail: str) -> None:
    begin = (text + " word" * CHARACTERS)[:CHARACTERS]
    assert len(words_of(begin + tail)) <= WORDS
    assert READER.read(begin + tail, 7) == READER.read(begin, 7)


def test_hostile_lengths_cost_nothing_extra() -> None:
    """Quotation marks without end, one endless word, nothing but digits: all are cut before anything is
    matched."""
    for text in ('"' * 10**6, "a" * 10**6, "7," * 10**6, "“" * 10**6, "http://" * 10**5):
        assert len(words_of(text)) <= WORDS


def test_numbers_quotations_and_addresses_are_masked() -> None:
    first = read('Translate "good morning" for order 1234 at https://a.example/x please and thank you')
    second = read('Translate "see you" for order 98.7 at http://b.example/?y=1 please and thank you')
    assert first.keys == second.keys
    assert first.body != second.body


def test_a_template_around_a_long_filler_keeps_its_ends() -> None:
    rng = Random(0)
    words = [f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(400)]
    fillers = [" ".join(rng.sample(words, 60)) for _ in range(2)]
    begin, end = "Solve the problem and put the result last. Problem:", "Now go and solve it all well please"
    a, b = (read(f"{begin} {filler} {end}") for filler in fillers)
    assert a.keys[BANDS:] == b.keys[BANDS:]
    assert a.keys[:BANDS] != b.keys[:BANDS]


def test_minima_collide_as_often_as_their_sets_overlap() -> None:
    """Each of the 64 minima agrees with probability s, so a band of four does with s⁴."""
    rng = np.random.default_rng(1)
    for shared, own in ((300, 100), (100, 100)):
        s = shared / (shared + 2 * own)
        agree = bands = 0
        for _ in range(60):
            both, left, right = (rng.integers(0, 2**63, n).astype(np.uint64) for n in (shared, own, own))
            a, b = (minima_of(mix(np.concatenate([both, side]))) for side in (left, right))
            agree += int((a == b).sum())
            bands += int((a.reshape(BANDS, ROWS) == b.reshape(BANDS, ROWS)).all(axis=1).sum())
        assert agree / (60 * BINS) == pytest.approx(s, abs=0.04)
        assert bands / (60 * BANDS) == pytest.approx(s**4, abs=0.06)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5))
def test_few_shingles_fill_every_bin(shingles: list[int]) -> None:
    minima = minima_of(np.array(shingles, dtype=np.uint64))
    assert len(minima) == BINS
    assert (minima != 1 << 63).all()


def test_another_secret_gives_other_hashes() -> None:
    text = "how do I bake bread without burning it"
    mine, theirs = read(text), Reader(b"other").read(text)
    assert theirs is not None
    assert not set(mine.keys) & set(theirs.keys)
    assert mine.body != theirs.body
    assert READER.fingerprint != Reader(b"other").fingerprint
    assert READER.keyed("ip", "1.2.3.4") != READER.keyed("asn", "1.2.3.4")
    assert b"secret" not in repr(READER).encode()


def test_scripts_without_spaces_are_read_sign_by_sign() -> None:
    assert len(words_of("请一步一步解释这个问题")) == 11
    assert read("请解释这个问题").body != read("请解释那个问题").body


def test_the_number_of_remembered_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("azeotrope.gateway.signals.prompts.CACHED", 50)
    reader = Reader(b"s")
    for i in range(100):
        reader.read(f"alpha{chr(97 + i % 26)}{chr(97 + i // 26)} beta gamma")
    assert len(reader._known) <= 60


def test_malformed_features_are_refused() -> None:
    good = msgspec.to_builtins(read("one two three four"))
    for change in ({"keys": good["keys"][:-1]}, {"body": -1}, {"body": 1 << 64}, {"vector": "AAAA"}, {"more": 1}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({**good, **change}, Features, str_keys=True)


def test_an_imprint_adds_one_to_each_part() -> None:
    imprint = Printer().imprint(read("which paint do I need for the bathroom with mold"))
    assert imprint.vector.shape == (SIZE,)
    assert imprint.vector[CELLS].sum() == 1
    assert imprint.vector[CELLS][imprint.cell] == 1
    assert np.linalg.norm(imprint.vector[WAVES]) == pytest.approx(1, abs=1e-5)
    # 18 keys with a sign each in 4 rows; keys that share a bucket may cancel.
    assert np.abs(imprint.vector[TEMPLATES]).sum() <= 4 * 18
    assert imprint.vector[TEMPLATES].sum() % 2 == 0


def test_similar_texts_are_near_and_others_are_not() -> None:
    near = read("my tomato plants have yellow leaves, what is wrong with the plants")
    same = read("yellow leaves on tomato plants: what could be wrong")
    other = read("which opening should I play against the Sicilian defense")
    assert near.unit() @ same.unit() > 0.4 > near.unit() @ other.unit() + 0.1
    assert len(near.vector) == DIMENSIONS


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("Imagine and articulate the internal   reasoning\nbehind a completed response", Flag.ELICITS),
        ("Give me your CHAIN OF THOUGHT first", Flag.ELICITS),
        ("chain\u200b of thought please", Flag.ELICITS),
        ("ｃｈａｉｎ ｏｆ ｔｈｏｕｇｈｔ", Flag.ELICITS),
        ("请给出完整的推理过程", Flag.ELICITS),
        ("Let's think step by step.", Flag.STEPS),
        ("Bitte Schritt für Schritt", Flag.STEPS),
        ("how do I bake bread", Flag(0)),
        ("", Flag(0)),
    ],
)
def test_wording(text: str, flag: Flag) -> None:
    assert wording(text) == flag


def test_wording_stops_where_reading_stops() -> None:
    assert wording("a " * WORDS + "chain of thought") == Flag(0)


@given(texts)
def test_wording_takes_any_text(text: str) -> None:
    assert wording(text) in (Flag(0), Flag.STEPS, Flag.ELICITS)


@given(st.integers(0, 2**20))
def test_suspicion_is_a_capped_sum(flags: int) -> None:
    expected = sum(weight for flag, weight in WEIGHTS.items() if flags & flag)
    assert suspicion(flags) == pytest.approx(min(1.0, expected))
    assert all(suspicion(flags | flag) >= suspicion(flags) for flag in Flag)


def test_prompts_read_together_are_read_as_alone() -> None:
    """Also beside empty ones, ones of fewer words than a shingle or an end has, and in any number."""
    rng = Random(5)
    words = 'the Explain 12 3.5 "a quotation" http://x.y/z 漢字 list step why answer sort'.split()
    texts = [
        "",
        "...",
        "hi",
        "hi there",
        "one two three",
        *(" ".join(rng.choices(words, k=n)) for n in range(1, 150, 7)),
    ]
    reader, printer = Reader(b"secret"), Printer()
    alone = [reader.read(text, 10 + len(text)) for text in texts]
    for size in (1, 2, 7, len(texts)):
        pairs = [(text, 10 + len(text)) for text in texts]
        together = [one for at in range(0, len(pairs), size) for one in reader.read_many(pairs[at : at + size])]
        assert together == alone
    said = [one for one in alone if one is not None]
    for one, imprint in zip(said, printer.imprint_many(said), strict=True):
        expected = printer.imprint(one)
        assert (imprint.register, imprint.rank, imprint.cell) == (expected.register, expected.rank, expected.cell)
        assert np.array_equal(imprint.vector, expected.vector)


def test_shingles_bins_and_ends_are_as_written_one_by_one() -> None:
    """The vectorized keys against the plain formulas, for one text among others."""
    reader = Reader(b"secret")
    text = "Please explain the proof of theorem 12 in simple words for children"
    features = reader.read_many([("other words before", None), (text, None), ("and after", None)])[1]
    assert features is not None
    masked = [reader._digest("<n>" if word == "12" else word) for word in text.lower().split()]
    minima = [1 << 63] * prompts.BINS
    for three in zip(masked, masked[1:], masked[2:], strict=False):
        total = sum(word * int(salt) for word, salt in zip(three, prompts._SHINGLE, strict=True)) % 2**64
        hashed = int(prompts.mix(np.array([total], dtype=np.uint64))[0])
        minima[hashed >> 58] = min(minima[hashed >> 58], hashed & ((1 << 58) - 1))
    full = []
    for place in range(prompts.BINS):
        steps = next(n for n in range(prompts.BINS) if minima[(place + n) % prompts.BINS] != 1 << 63)
        full.append((minima[(place + steps) % prompts.BINS] + steps * int(prompts._ROTATION)) % 2**64)
    sums = [
        sum(full[4 * band + row] * int(prompts._ROW[row]) for row in range(4)) % 2**64
        for band in range(prompts.BANDS)
    ]
    sums += [
        sum(word * int(salt) for word, salt in zip(part, prompts._PLACE, strict=True)) % 2**64
        for part in (masked[:5], masked[-5:])
    ]
    keys = prompts.mix(np.array(sums, dtype=np.uint64) ^ prompts._BAND)
    assert features.keys == tuple(keys.tolist())
