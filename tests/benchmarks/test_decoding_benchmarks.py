"""The decoding benchmarks run on small models and report every figure they promise."""

from __future__ import annotations

from dataclasses import replace

import decode_cost
import published_ads
import purifier
import pytest
import stacked_students
import torch

from azeotrope.core.sampling import GREEDY, Sampling
from azeotrope.models.decode import decode
from azeotrope.models.lm import LM


def small(name: str, hidden: int) -> LM:
    return decode_cost.random_lm(
        name,
        "llama",
        vocab_size=1024,
        hidden_size=hidden,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=2 * hidden,
    )


def test_costs_are_reported_beside_their_bars() -> None:
    pair = decode_cost.Pair("small", small("t", 32), small("p", 16), (3, 6), steps=4, rounds=2, note="")
    measured = decode_cost.measure(pair)
    assert [row["variant"] for row in measured["variants"]] == list(decode_cost.BARS)
    assert all(row["ratio"]["median"] > 0 and row["ratio"]["n"] == 2 for row in measured["variants"])
    page = decode_cost.markdown(
        {"command": "c", "machine": decode_cost.machine(), "pairs": [{**measured, "prompt_tokens": (3, 6)}]}
    )
    assert all(formula in page for formula, _ in decode_cost.BARS.values())


def test_the_ablations_change_speed_and_not_samples() -> None:
    lm = small("t", 32)
    prompts = [[2 + (7 * i + j) % 900 for j in range(2 + i)] for i in range(6)]
    lm.tokenizer.eos_token_id = 5
    whole = decode(lm, prompts, range(6), Sampling(), max_new_tokens=40)
    for missing in (("compaction",), ("cache",), ("compaction", "cache")):
        with published_ads.without(*missing):
            assert [s.ids for s in decode(lm, prompts, range(6), Sampling(), max_new_tokens=40)] == [
                s.ids for s in whole
            ]


def test_the_baseline_tilts_like_ours() -> None:
    """As the temperature goes to 0, the published procedure and ours write the same text."""
    teacher, proxy = small("t", 32), small("p", 16)
    for lm in (teacher, proxy):
        with torch.no_grad():
            for parameter in lm.model.parameters():
                parameter.mul_(6.0)
    bench = decode_cost.Bench(teacher=teacher, task=None, sampling=GREEDY, load=lambda _: proxy)  # type: ignore[arg-type]
    cold = Sampling(temperature=1e-4)
    rule = decode_cost.GivenDirection(backend="finite_difference", normalize=False, lam=3e4).bind(bench)
    prompts = [tuple(2 + (7 * i + j) % 900 for j in range(3 + i)) for i in range(4)]
    ours = [s.ids for s in decode(teacher, prompts, range(4), cold, rules=[rule], max_new_tokens=12)]
    plain = [s.ids for s in decode(teacher, prompts, range(4), cold, max_new_tokens=12)]
    assert published_ads.generated(teacher, rule, prompts, cold, 12, 4, 0) == ours
    assert ours != plain, "the tilt must matter, or nothing is tested"


def test_the_comparison_runs() -> None:
    work = published_ads.prepare("embedded/teacher", "embedded/teacher", 4, 4, 4, 0.1)
    measured = published_ads.measure(replace(work, limit=6), 2)
    assert measured["variants"][0]["variant"] == "published procedure"
    assert all(row["speed"]["n"] == 2 for row in measured["variants"])


def test_stacking_is_timed_against_its_floor() -> None:
    seconds = stacked_students.measure("embedded/student-llama", 2, 2, rounds=2)
    assert list(seconds) == ["in turn", "stacked", "floor"]
    assert all(len(values) == 2 and min(values) > 0 for values in seconds.values())


def test_the_gram_trick_makes_no_gradient() -> None:
    shape = (16, 512, 96)
    small = purifier.footprint(purifier.lowrank.cosine, shape)
    whole = purifier.footprint(purifier.explicit, shape)
    assert small["cosine"] == pytest.approx(whole["cosine"], abs=1e-5)
    assert whole["largest"] == 1.0
    assert small["largest"] == small["inputs"] < 1.0, "nothing is larger than the errors that were given"


def test_training_in_pieces_is_the_same_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purifier.corpus, "ROOM", 96 * 60)
    asked = []
    monkeypatch.setattr(
        purifier.Cosine, "_sums", lambda *a, sums=purifier.Cosine._sums: asked.append(1) or sums(*a)
    )
    pieces, whole = (purifier.held(whole, (12, 30, 96, 16), threads=1) for whole in (False, True))
    assert asked, "several pieces a step"
    assert pieces["cosine"] == pytest.approx(whole["cosine"], abs=1e-5)
    assert pieces["kl"] == pytest.approx(whole["kl"], rel=1e-3)
