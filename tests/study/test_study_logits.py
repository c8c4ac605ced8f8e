"""Studies of services that show log-probabilities: what is checked, what is shown, what is stored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from azeotrope.attacks.extracted_kd import assembled, grouped
from azeotrope.core.access import Access
from azeotrope.core.errors import ConfigError, RunError
from azeotrope.core.plugins import load as real_load  # before the fixture of this folder replaces it
from azeotrope.core.sampling import Sampling
from azeotrope.defenses.base import Bench
from azeotrope.models.lm import load
from azeotrope.study.config import Evaluation, Study, parse_study
from azeotrope.study.plan import make_plan
from azeotrope.study.run import default_stages
from azeotrope.study.service import DefendedService, bench_of, read_fitted, write_fitted
from azeotrope.study.specs import AttackSpec, ReleaseSpec
from tiny import Toy, fresh


@pytest.fixture(autouse=True)
def _real_methods(_fake_catalogue: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("azeotrope.core.plugins.load", real_load)


def study(**release: Any) -> Study:
    return parse_study(
        {
            "name": "x",
            "teacher": "embedded/teacher",
            "tasks": [{"kind": "lookup"}],
            "release": {"n": 8, **release},
            "attacks": [{"kind": "sft"}] + ([{"kind": "fkl"}] if release else []),
            "students": [{"family": "embedded/student-llama"}],
        }
    )


def steps(**release: Any) -> dict[str, str]:
    return {step.label: step.id for step in make_plan(study(**release), default_stages()).steps}


def test_an_attack_must_not_read_more_than_is_shown() -> None:
    for shown in ("text", "topk_logprobs"):
        with pytest.raises(ConfigError, match=rf"'attacks.1': fkl needs access full_logits.*shows {shown};"):
            study(access=shown)
    assert study(access="full_logits").release.access == "full_logits"


def test_what_is_shown_matters_only_to_attacks_that_read_it() -> None:
    plain, shown = steps(), steps(access="full_logits")
    assert plain.items() <= shown.items()
    (added,) = set(shown) - set(plain)
    assert "fkl" in added


def service(access: Access, arm: tuple[dict[str, Any], ...] = (), fitted: Path | None = None) -> DefendedService:
    spec = ReleaseSpec(
        teacher="embedded/teacher",
        task={"kind": "lookup"},
        arm=arm,
        n=4,
        draw=0,
        seed=1,
        sampling=Sampling(),
        evaluation=Evaluation(),
    )
    return DefendedService(spec, fitted=fitted, access=access, top=5)


def test_the_service_shows_the_defended_distributions_and_bills_what_did_not_come_with_the_release() -> None:
    full, top = service(Access.FULL_LOGITS), service(Access.TOPK_LOGPROBS)
    bench = bench_of(full.spec)
    traces = full.ask(bench.task.problems("release", 3), seed=2)
    before = full.queries
    exposures = full.logprobs(traces, released=True)
    assert full.queries == before
    for trace, exposure, few in zip(traces, exposures, top.logprobs(traces), strict=True):
        assert exposure.tokens == tuple(trace.token_ids or ())
        assert few.known_TK.shape == (len(exposure.tokens), 5)
        assert torch.equal(few.known_TK[:, 0], exposure.known_TK.max(-1).values)
        said = exposure.known_TK[torch.arange(len(exposure.tokens)), torch.tensor(exposure.tokens)]
        assert said.mean() > -1.0, "the teacher finds its own words likely"
    assert top.queries == 3
    hot = service(Access.FULL_LOGITS, ({"kind": "temperature", "heat": 1.0},)).logprobs(traces)
    assert all(h.known_TK.max() < e.known_TK.max() for h, e in zip(hot, exposures, strict=True))
    for arm, access, width in (
        ({"kind": "topk_logprobs", "k": 3}, Access.TOPK_LOGPROBS, 3),
        ({"kind": "topk_logprobs", "k": 0}, Access.FULL_LOGITS, exposures[0].known_TK.shape[1]),
        ({"kind": "round_logprobs", "step": 1.0}, Access.FULL_LOGITS, exposures[0].known_TK.shape[1]),
        ({"kind": "label_only"}, Access.TEXT, 0),
    ):  # and an attack that reads few log-probabilities sees few
        shown = service(Access.FULL_LOGITS, (arm,)).logprobs(traces)
        assert {(s.access, s.known_TK.shape[1]) for s in shown} == {(access, width)}
    assert {e.known_TK.shape[1] for e in full.logprobs(traces, access=Access.TOPK_LOGPROBS)} == {5}
    both = service(Access.FULL_LOGITS, ({"kind": "label_only"}, {"kind": "topk_logprobs", "k": 3}))
    assert {e.access for e in both.logprobs(traces)} == {Access.TEXT}
    with pytest.raises(ConfigError, match="text only"):
        service(Access.TEXT).logprobs(traces)


def test_what_a_defense_has_learned_comes_with_the_release(tmp_path: Path) -> None:
    first, second = (Bench(fresh("llama"), Toy(), Sampling()) for _ in range(2))
    path = tmp_path / "fitted.safetensors"
    write_fitted(first, path)
    assert not path.exists(), "nothing learned, nothing stored"
    first.fitted["cmi-0123"] = {"a_VR": torch.randn(5, 2), "b_RV": torch.randn(5, 2).T}
    first.fitted["cmi-of-another-arm"] = {"a_VR": torch.zeros(1)}
    first.memory["cmi-0123"] = {"cosine_held_out": -0.25}
    first.used.add("cmi-0123")
    write_fitted(first, path)
    read_fitted(second, path)
    assert set(second.fitted) == {"cmi-0123"}
    assert second.memory == {"cmi-0123": {"cosine_held_out": -0.25}}
    for name, tensor in first.fitted["cmi-0123"].items():
        assert torch.equal(second.fitted["cmi-0123"][name], tensor)
    path.write_bytes(b"not tensors")
    with pytest.raises(RunError, match="cannot be read"):
        read_fitted(second, path)


def test_arms_that_differ_in_what_they_show_share_releases_and_attacks_on_text() -> None:
    shown = {
        "defenses": [
            {"kind": "topk_logprobs", "k": [3, 5]},
            {"compose": [{"kind": "temperature", "heat": 0.5}, {"kind": "topk_logprobs", "k": 3}]},
            {"kind": "temperature", "heat": [0.5]},
        ]
    }
    raw = study(access="full_logits").model_dump(mode="json")
    plan = make_plan(parse_study({**raw, **shown}), default_stages())
    ids = {(s.stage, s.arm, s.attack): s.id for s in plan.steps}
    none, three, five = "none", "topk_logprobs(k=3)", "topk_logprobs(k=5)"
    assert ids["release", three, ""] == ids["release", five, ""] == ids["release", none, ""]
    assert ids["attack", three, "sft"] == ids["attack", none, "sft"]
    assert len({ids["attack", arm, "fkl"] for arm in (none, three, five)}) == 3
    hot = "temperature(heat=0.5)"
    assert ids["release", f"{hot} + {three}", ""] == ids["release", hot, ""] != ids["release", none, ""]
    assert ids["attack", f"{hot} + {three}", "sft"] == ids["attack", hot, "sft"]
    assert len(plan.work) == len(set(ids.values())) < len(plan.steps)
    seen: set[str] = set()
    for step in plan.work:
        assert seen.issuperset(step.needs)
        seen.add(step.id)
    specs = [s.spec for s in plan.steps if s.arm == three and s.attack]
    assert [len(spec.surfaces) for spec in specs if isinstance(spec, AttackSpec)] == [0, 1]


def test_every_further_request_may_go_another_way() -> None:
    """A permutation drawn by the request's seed: the release's own, another for every further request or probe."""
    spec = service(Access.FULL_LOGITS, ({"kind": "permutation", "lam": 2.0},)).spec
    asked = DefendedService(spec, access=Access.FULL_LOGITS)
    traces = asked.ask(bench_of(spec).task.problems("release", 1), seed=2)
    (own,), (same,) = (asked.logprobs(traces, released=True) for _ in range(2))
    (one,), (again,), (other,) = (asked.logprobs_again(traces, again=k) for k in (1, 1, 2))
    assert torch.equal(own.known_TK, same.known_TK)
    assert torch.equal(one.known_TK, again.known_TK)
    assert not torch.allclose(own.known_TK, one.known_TK, atol=1e-3)
    assert not torch.allclose(one.known_TK, other.known_TK, atol=1e-3)
    assert asked.queries == 1 + 3
    (probed,) = asked.biased(traces, torch.arange(own.known_TK.shape[1])[None])
    order = probed.ids_TK.argsort(-1)  # type: ignore[union-attr]
    assert not torch.allclose(probed.known_TK.gather(-1, order), own.known_TK, atol=1e-3)
    with pytest.raises(ConfigError, match="text only"):
        service(Access.TEXT).logprobs_again(traces, again=1)


def test_who_asks_greedily_gets_the_likeliest_token_of_the_defended_distribution() -> None:
    asked = service(Access.FULL_LOGITS, ({"kind": "temperature", "heat": 0.5},))
    problems = bench_of(asked.spec).task.problems("release", 3)
    one, other = (asked.ask(problems, seed=seed, greedy=True) for seed in (1, 2))
    assert [t.text for t in one] == [t.text for t in other]
    for trace, shown in zip(one, asked.logprobs(one), strict=True):
        assert tuple(shown.known_TK.argmax(-1).tolist()) == trace.token_ids
    assert asked.queries == 3 * 3


def test_surfaces_of_a_spec_act_in_the_service() -> None:
    spec = service(Access.FULL_LOGITS).spec
    full = DefendedService(spec, access=Access.FULL_LOGITS)
    few = DefendedService(spec, access=Access.FULL_LOGITS, surfaces=({"kind": "topk_logprobs", "k": 3},))
    traces = full.ask(bench_of(spec).task.problems("release", 2), seed=2)
    assert {e.known_TK.shape[1] for e in few.logprobs(traces)} == {3}
    assert full.logprobs(traces)[0].known_TK.shape[1] > 3
    leaked = full.leak_logprobs(traces)
    assert full.queries == 2 + 2 + 2
    assert torch.allclose(leaked[0].known_TK, full.logprobs(traces, released=True)[0].known_TK, atol=1e-5)
    cut = DefendedService(spec, access=Access.TOPK_LOGPROBS, top=3)
    assert {e.known_TK.shape[1] for e in cut.logprobs(traces)} == {3}
    assert torch.equal(cut.leak_logprobs(traces)[0].known_TK, leaked[0].known_TK), "leaks are whole"
    with pytest.raises(ConfigError, match="text only"):
        service(Access.TEXT).leak_logprobs(traces)


@pytest.mark.parametrize(("step", "error"), [(0.0, 1e-3), (0.5, 0.8)])
def test_a_bias_shows_what_the_largest_hide(step: float, error: float) -> None:
    """All logits, out of replies of three; rounding stays, as an error of about its step."""
    spec = service(Access.FULL_LOGITS).spec
    hidden = ({"kind": "topk_logprobs", "k": 3}, *([{"kind": "round_logprobs", "step": step}] if step else []))
    few = DefendedService(spec, access=Access.FULL_LOGITS, surfaces=hidden)
    whole = DefendedService(spec, access=Access.FULL_LOGITS)
    traces = whole.ask(bench_of(spec).task.problems("release", 1), seed=2)
    (true,) = whole.logprobs(traces)
    size = true.known_TK.shape[1]
    groups = grouped(size, 3)
    (found,) = few.biased(traces, groups)
    assert few.queries == few.tokens == len(true.tokens) * len(groups)
    logs = assembled(found, len(true.tokens), size)
    gaps = (logs - logs[:, :1]) - (true.known_TK - true.known_TK[:, :1])
    assert gaps.abs().max() < error
    empty = replace(traces[0], text="", finished=False)
    assert [len(one.known_TK) for one in few.biased([empty, *traces], groups)] == [0, len(found.known_TK)]
    closed = DefendedService(spec, access=Access.FULL_LOGITS, surfaces=({"kind": "label_only"},))
    assert closed.biased(traces, groups)[0].known_TK.shape[1] == 0
    with pytest.raises(ConfigError, match="takes no logit_bias"):
        service(Access.TEXT).biased(traces, groups)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"defenses": [{"kind": "cmi", "proxy": "embedded/student-othertok-0"}]}, "choose a proxy that shares"),
        ({"defenses": [{"kind": "poe", "proxy": "embedded/student-othertok-0"}]}, "choose a proxy that shares"),
        ({"defenses": [{"kind": "doge", "more_proxies": ["embedded/student-othertok-0"]}]}, "choose a proxy that"),
        ({"defenses": [{"kind": "cmi", "rank": 5000}]}, "rank 5000 of a logit map exceeds"),
        ({"students": [{"family": "embedded/student-othertok", "bases": 1}]}, "use uld, gold or alm"),
        (
            {"attacks": [{"kind": "inverse_map", "sibling": "embedded/student-othertok-0"}]},
            "public model 'embedded/student-othertok-0' has another vocabulary",
        ),
        ({"defenses": [{"kind": "cmi", "layer": 99}]}, "numbered from 0; there is no layer 99"),
        ({"students": [{"family": "PADDED", "bases": 1}]}, "head of the student '.*' has 1032 rows where"),
        (
            {"attacks": [{"kind": "inverse_map", "sibling": "PADDED"}]},
            "head of the public model '.*' has 1032 rows",
        ),
    ],
)
def test_models_that_do_not_fit_are_refused_before_anything_runs(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    if "PADDED" in str(changes):
        lm = load("embedded/student-llama-0")
        lm.model.resize_token_embeddings(lm.vocab_size + 8)
        for part in (lm.model, lm.tokenizer):
            part.save_pretrained(str(tmp_path / "padded"))
        changes = json.loads(json.dumps(changes).replace("PADDED", str(tmp_path / "padded")))
    raw: dict[str, Any] = {
        "name": "wrong",
        "teacher": "embedded/teacher",
        "tasks": [{"kind": "lookup"}],
        "release": {"n": 8, "access": "full_logits"},
        "attacks": [{"kind": "fkl"}],
        "students": [{"family": "embedded/student-llama", "bases": 1}],
    }
    with pytest.raises(ConfigError, match=sentence):
        make_plan(parse_study({**raw, **changes}), default_stages())
    assert make_plan(parse_study(raw), default_stages()).steps


def test_what_a_step_is_expected_to_take_grows_with_its_work() -> None:
    def tokens(stage: str, *, n: int = 8, **changes: Any) -> float:
        raw = study(access="full_logits").model_dump(mode="json", exclude_none=True)
        raw |= {"release": {"n": n, "access": "full_logits"}, **changes}
        plan = make_plan(parse_study(raw), default_stages())
        return sum(step.estimate["tokens"] for step in plan.steps if step.stage == stage)

    def attack(**settings: Any) -> float:
        return tokens("attack", attacks=[{"kind": "fkl", **settings}])

    assert attack(sft={"epochs": 10}) > attack() < tokens("attack", n=80, attacks=[{"kind": "fkl"}])
    assert attack() < attack(on_policy=0.5) < attack(on_policy=1.0)
    few, many, more = (
        tokens("release", defenses=[{"kind": "cmi", "serve": "unmerged", "scale": [1.0], **settings}])
        for settings in ({"epochs": 5}, {"epochs": 10}, {"epochs": 10, "maps": 3})
    )
    assert few < many < more
