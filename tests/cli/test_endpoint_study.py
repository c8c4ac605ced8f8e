"""A study whose teacher is behind an endpoint: the command line and a real server, from dry run to report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from cli_drive import Invoke, one_sentence

pytest.importorskip("torch")

from azeotrope.cli import tracefile
from azeotrope.study.store import read_json
from azeotrope.tasks.lookup import Lookup
from serving import Answer, Asked, Served
from teaching import ALL_TEXT, ASKED, PRICES, QUICK, RELEASED, asked_in, gold, reference, releases, write_study


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Students are asked for a few facts only; that does not concern the teacher."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    probes = Lookup().probes()[:8]
    monkeypatch.setattr(Lookup, "probes", lambda self: probes)


@pytest.fixture
def served() -> Iterator[Served]:
    """Knows what the smallest study asks, and answers nothing else."""
    with Served(gold(asked_in(releases()[0]))) as found:
        yield found


def sent(served: Served) -> list[str]:
    """The requests, to see whether one came twice."""
    return [json.dumps(asked.body, sort_keys=True) for asked in served.asked]


def info(runs: Path, stage: str) -> list[dict[str, Any]]:
    """What the steps of a stage noted, those that sent most first."""
    found = [read_json(path) for path in (runs / "steps" / stage).glob("*/info.json")]
    return sorted(found, key=lambda item: -item.get("requests", 0))


@pytest.mark.slow
def test_the_whole_loop(invoke: Invoke, served: Served, tmp_path: Path) -> None:
    """Defenses that keep, shorten and hide, an attack that asks for more, and every measure."""
    runs = tmp_path / "runs"
    study = write_study(
        tmp_path / "study.yaml",
        reference(served.url, tmp_path, PRICES, "max_cost=1"),
        defenses=[{"compose": [{"kind": kind} for kind in ALL_TEXT[:2]]}, {"kind": "answer_only"}],
        attacks=[{"kind": "sft", **QUICK}, {"kind": "prefill", "sft": QUICK}],
        detectors=[{"kind": "token_delta"}],
        evaluation={"problems": 8, "conduct": 2, "max_new_tokens": 16, "reader": "embedded/student-neox-4"},
    )
    found = invoke("run", study, "--runs", runs, "--workers", 0, "--json")
    assert found.code == 0, found.err
    assert Path(json.loads(found.out)["report"]).stat().st_size > 10_000
    assert len(set(sent(served))) == len(served.asked) == ASKED + RELEASED
    assert [item["requests"] for item in info(runs, "release")] == [ASKED, 0, 0]
    asking = [item for item in info(runs, "attack") if item["queries"]]
    assert [item["requests"] for item in asking] == [RELEASED, 0, 0]
    assert all(item["query_tokens"] > 0 for item in asking)
    assert 0 < asking[0]["spent"] < info(runs, "release")[0]["spent"]
    results = pl.read_parquet(runs / "paid" / "results.parquet")
    clean = results.filter(pl.col("arm") == "none", pl.col("attack") == "")
    values = dict(zip(clean["metric"], clean["value"], strict=True))
    assert values["teacher_accuracy"] == values["teacher_refusal_consistency"] == values["grounding"] == 1.0
    assert 0 <= values["reader_accuracy"] <= 1
    assert set(results["student"]) == {"", "embedded/student-llama"}
    manifest = read_json(runs / "paid" / "manifest.json")
    assert any("in words" in note for note in manifest["notes"])
    assert any(item["requests"] == ASKED for item in manifest["diagnostics"])
    again = invoke("run", study, "--runs", runs, "--workers", 0)
    assert again.code == 0
    assert len(served.asked) == ASKED + RELEASED


def test_a_run_goes_on_after_a_failure_without_asking_again(
    invoke: Invoke, served: Served, tmp_path: Path
) -> None:
    answer = served.answer

    def failing(asked: Asked) -> Answer:
        return answer(asked) if asked.index < 30 else Answer({"error": "down for the night"}, 503)

    served.answer, runs = failing, tmp_path / "runs"
    study = write_study(tmp_path / "study.yaml", reference(served.url, tmp_path, "concurrency=1"), defenses=[])
    command = ("run", study, "--runs", runs, "--workers", 0)
    found = invoke(*command)
    assert found.code == 4
    last = found.err.strip().splitlines()[-1]
    assert last.startswith("azeotrope: The step 'release · lookup · none · draw 0' failed: The endpoint http://")
    assert "503: down for the night" in last
    assert "running again continues" in last
    assert not (runs / "paid" / "manifest.json").exists()
    good = sent(served)[:30]
    served.answer = answer
    del served.asked[:]
    assert invoke(*command).code == 0
    assert not set(good) & set(sent(served))
    assert len(set(sent(served))) == len(served.asked) == ASKED - 30


@pytest.mark.slow
def test_a_higher_cap_goes_on_where_the_lower_one_stopped(
    invoke: Invoke, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then in worker processes, which want the same at the same time; a key is sent and nowhere else."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789")
    runs = tmp_path / "runs"
    study = write_study(tmp_path / "study.yaml", reference(served.url, tmp_path, PRICES, "max_cost=0.02"))
    command = ("run", study, "--runs", runs)
    found = invoke(*command, "--workers", 0)
    last = found.err.strip().splitlines()[-1]
    assert found.code == 4, found.err
    assert "failed: The cap max_cost=0.02 is reached for" in last
    assert "running again with a higher max_cost continues." in last
    first = len(served.asked)
    assert 5 < first < ASKED
    steps = {path.name for path in (runs / "steps").glob("*/*")}
    more = f"teacher={reference(served.url, tmp_path, PRICES, 'max_cost=0.5', 'concurrency=3')}"
    planned = json.loads(invoke("run", study, "--runs", runs, "--dry-run", "--json", "--set", more).out)
    assert planned["requests"] == ASKED - first
    found = invoke(*command, "--workers", 2, "--set", more)
    assert found.code == 0, found.err
    assert len(set(sent(served))) == len(served.asked) == ASKED
    assert steps < {path.name for path in (runs / "steps").glob("*/*")}
    assert all(asked.headers["authorization"] == "Bearer sk-secret-0123456789" for asked in served.asked)
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in kept if b"sk-secret" in path.read_bytes()]


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_defense_of_logits_is_refused(
    dry: tuple[str, ...], invoke: Invoke, served: Served, tmp_path: Path
) -> None:
    ads = [{"kind": "ads", "proxy": "embedded/proxy", "lam": [0.1, 0.2]}]
    study = write_study(tmp_path / "study.yaml", reference(served.url, tmp_path), defenses=ads)
    found = invoke("run", study, "--runs", tmp_path / "runs", *dry)
    assert (found.code, found.out) == (2, "")
    assert one_sentence(found.err)
    assert "The defense 'ads' acts at stage 'logits' and needs the teacher's weights" in found.err
    assert "with an endpoint, defenses of stage 'trace' work" in found.err
    assert not served.asked
    assert not (tmp_path / "runs").exists()


def test_the_dry_run_tells_requests_and_cost(invoke: Invoke, served: Served, tmp_path: Path) -> None:
    study = write_study(tmp_path / "study.yaml", reference(served.url, tmp_path, PRICES, "max_cost=2"))
    found = invoke("run", study, "--runs", tmp_path / "runs", "--dry-run")
    assert found.code == 0, found.err
    text = " ".join(found.out.split())
    assert f"At most {ASKED} requests to {served.url}#gold, retries aside, for at most 0." in text
    assert "max_cost=2" in text
    assert not served.asked
    assert {path.name for path in tmp_path.iterdir()} == {"study.yaml"}


def test_traces_of_an_endpoint(invoke: Invoke, served: Served, tmp_path: Path) -> None:
    teacher, out = reference(served.url, tmp_path, PRICES, "max_cost=1"), tmp_path / "r.jsonl"
    command = ("traces", "--teacher", teacher, "--task", "lookup", "--n", 5, "--out", out)
    refused = invoke(*command, "--defense", "ads:proxy=embedded/proxy")
    assert refused.code == 2
    assert one_sentence(refused.err)
    assert "with an endpoint, defenses of stage 'trace' work" in refused.err
    found = invoke(*command, "--defense", "answer_only", "--json")
    assert found.code == 0, found.err
    told = json.loads(found.out)
    assert (told["traces"], told["accuracy"]["value"], told["requests"]) == (5, 1.0, 5)
    assert 0 < told["spent"] < 0.01
    assert told["tokens"] > 0
    assert "cache" not in found.err
    traces = tracefile.read(out)
    assert len(traces) == len(served.asked) == 5
    assert all(len(trace.text.split()) < 12 for trace in traces)
    assert json.loads(invoke(*command, "--json").out)["requests"] == 0
