"""A teacher behind an endpoint: what its steps are called, what they ask, cost and refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytest.importorskip("torch")

import teaching
from azeotrope.attacks.paraphrase import Paraphrase
from azeotrope.core.errors import ConfigError
from azeotrope.core.plugins import load as real_load  # before the fixture of this folder replaces it
from azeotrope.core.sampling import GREEDY
from azeotrope.defenses.base import Bench, assemble
from azeotrope.models.endpoint import Endpoint, parse_ref
from azeotrope.models.teacher import open_teacher
from azeotrope.study.asking import quote
from azeotrope.study.config import load_study, parse_study
from azeotrope.study.plan import make_plan
from azeotrope.study.run import dry_run_of
from azeotrope.study.service import DefendedService, make_defenses, make_task
from azeotrope.study.specs import AttackSpec, ReleaseSpec
from azeotrope.study.stages import ModelStages
from serving import Answer, Served
from teaching import ALL_TEXT, ASKED, NOBODY, PRICES, RELEASED, asked_in, gold, reference, releases

STAGES = ModelStages()
SOURCE = Path(str(__import__("azeotrope").__file__)).parent


@pytest.fixture(autouse=True)
def _real_methods(_fake_catalogue: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("azeotrope.core.plugins.load", real_load)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def served() -> Iterator[Served]:
    with Served(lambda asked: Answer(status=500)) as found:
        yield found


def ids(teacher: str = NOBODY, **changes: Any) -> list[str]:
    return [step.id for step in make_plan(parse_study(teaching.study(teacher, **changes)), STAGES).steps]


def specs(teacher: str, **changes: Any) -> list[Any]:
    return [step.spec for step in make_plan(parse_study(teaching.study(teacher, **changes)), STAGES).steps]


# What a step is called


def test_steps_of_a_local_teacher_keep_their_names() -> None:
    """Hours of stored steps are found by these; a change must be meant, and come with a new version."""
    plan = make_plan(load_study(SOURCE / "study" / "demo_quick.yaml"), STAGES)
    found = {step.label: step.id for step in plan.steps}
    assert found["undistilled · lookup · embedded/student-llama"] == "016d56bff7849ee0dd4c"
    assert found["release · lookup · none · draw 0"] == "e9137464fab6da3aa9f6"
    assert found["attack · lookup · none · sft · embedded/student-llama · draw 0"] == "8fe17c31c32e50382940"


def test_caps_prices_and_patience_are_no_part_of_a_step() -> None:
    options = "max_cost=5&price_in=1&price_out=2&concurrency=2&retries=9&timeout=3&cache=/nowhere/x&key_env=OTHER"
    assert ids(f"{NOBODY}?{options}") == ids(NOBODY)
    assert ids(f"{NOBODY.replace('https', 'HTTPS')}?max_requests=5") == ids(NOBODY)


@pytest.mark.parametrize("other", ["-large", "?api=completions", "?reasoning=drop"])
def test_what_changes_the_text_changes_the_step(other: str) -> None:
    (same,) = set(ids()) & set(ids(NOBODY + other))
    assert same == ids()[0], "only the undistilled student's"


def test_a_step_says_who_answered_and_not_what_may_be_spent() -> None:
    plan = make_plan(parse_study(teaching.study(f"{NOBODY}?max_cost=5&price_in=0&price_out=2")), STAGES)
    identity = json.dumps([step.identity for step in plan.steps])
    assert "https://nobody.invalid/v1" in identity
    assert not any(word in identity for word in ("max_cost", "price", "OPENAI_API_KEY"))


def test_a_label_names_the_writer_without_its_options() -> None:
    writer = f"{NOBODY}?max_cost=5&price_in=1&price_out=1"
    attack = {"kind": "paraphrase", "writer": writer, "temperature": 0.5}
    plan = make_plan(parse_study(teaching.study("embedded/teacher", attacks=[attack])), STAGES)
    (attacks,) = {step.attack for step in plan.of("attack")}
    assert attacks == Paraphrase(writer=writer, temperature=0.5).label
    assert attacks == f"paraphrase(temperature=0.5, writer={NOBODY})"
    assert Paraphrase(missing=0.5).label == "paraphrase(missing=0.5)"
    with pytest.raises(ConfigError, match="twice"):
        parse_study(teaching.study(attacks=[attack, {**attack, "writer": NOBODY}]))
    both = [{"kind": "paraphrase", "writer": NOBODY + api} for api in ("", "?api=completions")]
    labels = [a.label for a in make_plan(parse_study(teaching.study(attacks=both)), STAGES).expansion.attacks]
    assert len(set(labels)) == 2


# What it refuses


@pytest.mark.parametrize("kind", ["temperature", "gaussian", "permutation", "ads"])
@pytest.mark.parametrize("composed", [False, True])
def test_a_defense_that_needs_weights_is_refused_when_planning(kind: str, composed: bool, tmp_path: Path) -> None:
    settings = {"kind": kind, **({"proxy": "embedded/proxy"} if kind == "ads" else {})}
    entry = {"compose": [{"kind": "traceguard"}, settings]} if composed else settings
    with pytest.raises(ConfigError) as caught:
        dry_run_of(parse_study(teaching.study(f"{NOBODY}?max_requests=5", defenses=[entry])), runs=tmp_path)
    text = str(caught.value)
    assert f"defense '{kind}' acts at stage 'logits'" in text
    assert f"endpoint {NOBODY} does not give" in text
    assert "stage 'trace' work" in text
    assert not list(tmp_path.iterdir())


def test_text_defenses_and_strength_0_are_allowed() -> None:
    kinds = [{"kind": kind} for kind in ALL_TEXT]
    assert len(releases(defenses=[*kinds, {"kind": "temperature", "heat": 0.0}])) == 7


def test_log_probabilities_of_an_endpoint_are_refused_when_planning(tmp_path: Path) -> None:
    shown = {"n": RELEASED, "access": "topk_logprobs"}
    for changes in ({"release": shown}, {"release": shown, "attacks": [{"kind": "topk_kd"}]}):
        with pytest.raises(ConfigError, match=r"'release.access': studies read the text of an endpoint only"):
            dry_run_of(parse_study(teaching.study(f"{NOBODY}?max_requests=5", **changes)), runs=tmp_path)
    with pytest.raises(ConfigError, match="needs access full_logits, but the release shows text"):
        parse_study(teaching.study(NOBODY, attacks=[{"kind": "fkl"}]))
    with pytest.raises(ConfigError, match=r"'defenses': label_only.* changes what is shown beside the text"):
        make_plan(parse_study(teaching.study(NOBODY, defenses=[{"kind": "label_only"}])), STAGES)


def test_weights_cannot_be_asked_for() -> None:
    bench = Bench(open_teacher(NOBODY), make_task({"kind": "lookup"}), GREEDY)
    with pytest.raises(ConfigError, match="#gold is behind an endpoint, which does not give its weights"):
        _ = bench.teacher
    pipeline = assemble(make_defenses([{"kind": "traceguard"}]), bench)
    with pytest.raises(ConfigError, match="does not give its weights"):
        _ = pipeline.teacher
    with pytest.raises(ConfigError, match="defense 'temperature'"):
        assemble(make_defenses([{"kind": "temperature"}]), bench)
    with pytest.raises(ConfigError, match="no rule"):
        bench.writer.write([], bench.task, GREEDY, seed=0, rules=[None])  # type: ignore[list-item]


@pytest.mark.parametrize("teacher", ["https://host/v1", "https://host/v1#m?max_csot=5", "https://a:b@host/v1#m"])
def test_a_malformed_reference_is_refused_when_planning(teacher: str) -> None:
    with pytest.raises(ConfigError, match="endpoint"):
        ids(teacher)


# What it asks and costs


def words(text: str) -> int:
    return len(text.replace("<think>", " ").replace("</think>", " ").split())


def test_every_arm_is_measured_and_paid_for_once(served: Served, tmp_path: Path) -> None:
    teacher = reference(served.url, tmp_path, PRICES, "max_cost=1")
    arms = releases(teacher=teacher, defenses=[{"kind": kind} for kind in ALL_TEXT])
    served.answer = gold(asked_in(arms[0]))
    bound = quote(teacher, arms)
    assert (bound.requests, len(served.asked)) == (ASKED, 0)
    assert not list(tmp_path.iterdir()), "a forecast makes no cache"
    infos, texts = [], []
    for i, spec in enumerate(arms):
        out = tmp_path / str(i)
        out.mkdir()
        STAGES.release(spec, out)
        infos.append(json.loads((out / "info.json").read_text()))
        texts.append(pl.read_parquet(out / "traces.parquet"))
        for frame in (texts[-1], pl.read_parquet(out / "holdout.parquet")):
            assert frame["n_tokens"].to_list() == [words(text) for text in frame["text"]], "not what is billed"
        assert (out / "resample.parquet").exists() == (i == 0)
        assert pl.read_parquet(out / "samples.parquet")["correct"].all()
        assert len(json.loads((out / "diffs.json").read_text())) == 1
    assert [info["requests"] for info in infos] == [ASKED, 0, 0, 0, 0, 0]
    assert 0 < infos[0]["spent"] < bound.cost
    assert infos[0]["spent"] == pytest.approx(Endpoint(parse_ref(teacher)).spent())
    assert len({json.dumps(asked.body) for asked in served.asked}) == len(served.asked) == ASKED
    assert all("in words" in note for info in infos for note in info["notes"])
    assert texts[3]["n_tokens"].sum() < texts[0]["n_tokens"].sum()
    assert quote(teacher, arms).requests == 0
    assert quote(teacher, arms).cost == 0.0


def test_the_service_answers_through_the_defense_and_bills(served: Served, tmp_path: Path) -> None:
    arm = [{"kind": "summary", "share": 0.5}]
    spec = releases(teacher=reference(served.url, tmp_path, PRICES, "max_cost=1"), defenses=arm)[1]
    problems = [p for p in asked_in(spec)[:RELEASED] if not p.meta["restricted"]][:4]
    served.answer = gold(problems)
    service = DefendedService(spec)
    asked = service.ask(problems, seed=3, prefix="<think> First")
    assert [a.body["messages"][1]["content"] for a in served.asked] == ["<think> First"] * 4
    leaked = service.leak(problems, seed=3)
    assert all(len(a.text) < len(b.text) for a, b in zip(asked, leaked, strict=True))
    assert [trace.n_tokens for trace in [*asked, *leaked]] == [words(t.text) for t in [*asked, *leaked]]
    assert service.tokens > 2 * sum(words(trace.text) for trace in leaked), "billed with its think tags"
    assert (service.queries, len(served.asked)) == (8, 8)
    assert service.ledger["requests"] == 8
    assert service.ledger["spent"] == pytest.approx(Endpoint(parse_ref(spec.teacher)).spent())
    service.ask(problems, seed=3, prefix="<think> First")
    assert (service.queries, service.ledger["requests"]) == (12, 8)
    service.ask(problems[:1], seed=3, greedy=True)
    assert served.asked[-1].body["temperature"] == 0
    assert "top_k" not in served.asked[-1].body, "which not every server knows"


def test_what_attacks_ask_is_forecast_once_for_all_arms_and_families(tmp_path: Path) -> None:
    teacher = f"{NOBODY}?price_in=0&price_out=10&max_cost=1&cache={tmp_path}/cache.sqlite"
    attacks = [{"kind": "sft"}, {"kind": "prefill"}, {"kind": "resampled_sft", "queries": 3}]
    students = [{"family": "embedded/student-llama", "bases": 2}, {"family": "embedded/student-gpt2", "bases": 3}]
    found = quote(teacher, specs(teacher, attacks=attacks, students=students, draws=2))
    again = 3 * (1 + 2) * RELEASED
    assert found.requests <= 2 * (ASKED + again), "test problems and their rewordings are those of every draw"
    assert found.requests >= 2 * (RELEASED + RELEASED + again)
    assert found.cost == pytest.approx(found.requests * 128 * 10e-6)
    releases_only = [spec for spec in specs(teacher) if isinstance(spec, ReleaseSpec | AttackSpec)]
    assert quote(teacher, releases_only).requests == ASKED


def test_the_dry_run_says_what_would_be_asked(tmp_path: Path) -> None:
    cache = f"cache={tmp_path}/cache.sqlite"
    free = dry_run_of(parse_study(teaching.study(f"{NOBODY}?{cache}")), runs=tmp_path)
    assert (free.requests, free.cost) == (ASKED, None)
    assert f"At most {ASKED} requests to {NOBODY}, retries aside; it has no prices." in free.summary
    priced = dry_run_of(parse_study(teaching.study(f"{NOBODY}?{cache}&{PRICES}&max_cost=2")), runs=tmp_path)
    assert priced.cost is not None
    assert ASKED * 128 * 10e-6 < priced.cost < ASKED * (128 * 10 + 1000) * 1e-6
    assert f"for at most {priced.cost:.4g} (max_cost=2 includes what was spent before)" in priced.summary
    assert {"requests", "cost", "asking"} < set(priced.as_dict())
    local = dry_run_of(parse_study(teaching.study("embedded/teacher")), runs=tmp_path)
    assert (local.requests, local.cost, local.asking) == (0, None, "")
    assert "requests" not in local.summary


def test_the_dry_run_says_what_a_hired_writer_would_be_asked(tmp_path: Path) -> None:
    writer = f"{NOBODY}?price_in=0&price_out=10&max_cost=1"
    students = [{"family": f"embedded/student-{family}", "bases": 1} for family in ("llama", "gpt2")]
    attacks = [{"kind": "sft"}, {"kind": "paraphrase", "writer": writer, "writer_limit": 50}]
    study = teaching.study("embedded/teacher", attacks=attacks, students=students)
    found = dry_run_of(parse_study(study), runs=tmp_path)
    replies = 2 * RELEASED  # two arms; both families learn from the same rewritings
    cost = replies * 50 * 10e-6
    assert (
        f"At most {replies} rewritings by {NOBODY}, retries aside, whose replies cost at most {cost:.4g};"
        in found.summary
    )
    free = [{"kind": "paraphrase", "writer": NOBODY}]
    found = dry_run_of(parse_study({**study, "attacks": free}), runs=tmp_path)
    assert f"{replies} rewritings by {NOBODY}, retries aside." in found.summary
