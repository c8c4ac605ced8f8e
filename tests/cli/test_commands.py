"""Commands in this process: results, JSON, exit codes, and one sentence for whatever goes wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from cli_drive import Invoke, one_sentence

from azeotrope.cli import entry, methods, studies, tracefile
from azeotrope.cli.status import status
from azeotrope.core.errors import ConfigError, RunError
from azeotrope.core.types import Trace
from azeotrope.study.store import run_lock

# list, show, doctor


def test_list_json_has_every_catalog(invoke: Invoke) -> None:
    found = invoke("list", "--json")
    listed = json.loads(found.out)
    assert (found.code, found.err) == (0, "")
    assert set(listed) == {"defenses", "attacks", "tasks", "detectors", "models"}
    ads = next(entry for entry in listed["defenses"] if entry["name"] == "ads")
    assert (ads["stage"], ads["dial"], ads["paper"], ads["problem"]) == ("logits", "lam", "2504.13146", "")
    assert all(
        entry["summary"] and not entry["problem"]
        for group in ("defenses", "attacks", "tasks", "detectors")
        for entry in listed[group]
    )


def test_list_agrees_with_the_classes(invoke: Invoke) -> None:
    from azeotrope.core import plugins

    for item in json.loads(invoke("list", "defenses", "--json").out)["defenses"]:
        cls = plugins.load("defenses", item["name"])
        assert (item["summary"], item["maturity"], item["dial"]) == (cls.summary, str(cls.maturity), cls.dial)
        assert item["stage"] == str(cls.stage)
        assert item["paper"] == (cls.paper.id if cls.paper else "")


def test_list_for_people(invoke: Invoke) -> None:
    found = invoke("list", "tasks")
    assert found.code == 0
    assert "lookup" in found.out


def test_show_tells_everything(invoke: Invoke) -> None:
    about = json.loads(invoke("show", "traceguard", "--json").out)
    assert (about["dial"], about["stage"], about["maturity"]) == ("budget", "trace", "experimental")
    assert about["paper"]["id"] == "2604.23238"
    budget = about["parameters"][0]
    assert (budget["name"], budget["type"], budget["default"]) == ("budget", "float, ≥ 0", 0.1)
    text = invoke("show", "traceguard").out
    assert "Algorithm 1" in text
    assert "0 is the identity" in text


def test_doctor_names_a_broken_plugin(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    from azeotrope.cli import doctor
    from azeotrope.cli.facts import read
    from azeotrope.core import plugins

    broken = importlib.metadata.EntryPoint("bad", "no_such_module_here:Bad", "azeotrope.tasks")
    assert "no_such_module_here" in read("tasks", broken).problem
    good = {"none": plugins.catalogue("defenses")["none"]}
    fake = {"defenses": good, "attacks": {}, "tasks": {"bad": broken}, "detectors": {}}
    for module in (doctor, plugins):
        monkeypatch.setattr(module, "catalogue", lambda group: fake[group])
    found = invoke("doctor", "--json")
    about = json.loads(found.out)
    assert found.code == 3
    assert about["plugins"]["defenses"] == {"none": "ok"}
    assert "'bad'" in about["problems"][0]
    assert "PROBLEM" in invoke("doctor").out


# reports, comparisons, status


def test_report_tells_the_verdict(invoke: Invoke, finished_runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    found = invoke("report", "a", "--runs", finished_runs, "--out", page, "--json")
    told = json.loads(found.out)
    assert (found.code, told["report"]) == (0, str(page))
    assert told["verdict"]["lead"]
    assert page.read_text(encoding="utf-8").startswith("<!")
    text = invoke("report", finished_runs / "a", "--out", page).out
    assert told["verdict"]["lead"] in text
    assert f"Report: {page}" in text


def test_open_uses_a_file_address(invoke: Invoke, finished_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)))
    found = invoke("report", finished_runs / "a", "--out", finished_runs / "p.html", "--open")
    assert (found.code, opened[0][:8]) == (0, "file:///")
    assert "No browser" in found.err


def test_compare(invoke: Invoke, finished_runs: Path) -> None:
    found = json.loads(invoke("compare", "a", "b", "--runs", finished_runs, "--json").out)
    row = next(r for r in found["rows"] if r["metric"] == "s_minus_t")
    assert row["difference"] == pytest.approx(row["b"]["value"] - row["a"]["value"])
    assert (found["only_a"], found["only_b"]) == (0, 0)
    assert {r["remark"] for r in found["rows"]} <= {"overlap", "apart", "not known"}
    same = json.loads(invoke("compare", "a", "a", "--runs", finished_runs, "--json").out)
    assert all(r["difference"] == 0 and r["remark"] != "apart" for r in same["rows"])
    text = invoke("compare", "a", "b", "--metric", "recall_hidden", "--runs", finished_runs).out
    assert "shared rows" in text


@pytest.mark.parametrize("command", ["report", "compare"])
def test_a_truncated_table_is_one_sentence(
    invoke: Invoke, finished_runs: Path, tmp_path: Path, command: str
) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(finished_runs / "a", folder)
    whole = (folder / "results.parquet").read_bytes()
    (folder / "results.parquet").write_bytes(whole[: len(whole) // 2])
    found = invoke(command, folder, *([folder] if command == "compare" else []))
    assert (found.code, found.out) == (4, "")
    assert one_sentence(found.err)
    assert "results.parquet" in found.err


def test_status(invoke: Invoke, finished_runs: Path, tmp_path: Path) -> None:
    (finished_runs / "a" / "steps.json").write_text('[{"stage": "release", "id": "x", "label": "x"}]')
    found = json.loads(invoke("status", "a", "--runs", finished_runs, "--json").out)
    assert (found["state"], found["steps"], found["stored"]) == ("finished", 1, 0)
    assert "finished" in invoke("status", "a", "--runs", finished_runs).out
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / "study.yaml").write_text("name: [")
    (folder / "error.txt").write_text("Traceback\nZeroDivisionError: seventeen\n")
    found_dir = status(folder)
    assert (found_dir["state"], found_dir["steps"]) == ("failed", None)
    assert any("seventeen" in line for line in found_dir["detail"])
    with run_lock(folder):
        assert status(folder)["state"] == "running"
    assert status(folder)["state"] == "failed"


# the run command, on a study that needs no models


def test_run_dry_run_and_overrides(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Planned:
        def as_dict(self) -> dict[str, Any]:
            return {"steps": 3}

        def table(self) -> str:
            return "the grid"

    def plan(study: Any, *, runs: Path, workers: int) -> Planned:
        seen.update(study=study, runs=runs, workers=workers)
        return Planned()

    monkeypatch.setattr("azeotrope.study.run.dry_run_of", plan)
    study = tmp_path / "s.yaml"
    study.write_text(
        "{name: s, teacher: t, tasks: [{kind: lookup}], attacks: [{kind: sft}], "
        "students: [{family: f}], defenses: [{kind: traceguard}]}"
    )
    found = invoke(
        "run",
        study,
        "--dry-run",
        "--set",
        "defenses.0.budget=[0.1, 0.3]",
        "--set",
        "draws=2",
        "--workers",
        3,
        "--json",
    )
    assert (found.code, json.loads(found.out)) == (0, {"steps": 3})
    assert seen["study"].defenses[0]["budget"] == [0.1, 0.3]
    assert (seen["study"].draws, seen["workers"]) == (2, 3)
    assert "the grid" in invoke("run", study, "--dry-run").out
    wrong = invoke("run", study, "--dry-run", "--set", "defenses.0.bugdet=1")
    assert wrong.code == 2
    assert "budget" in wrong.err


def test_demo_prints_the_grid_then_runs_then_reports(
    invoke: Invoke, finished_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    class Planned:
        def table(self) -> str:
            order.append("grid")
            return "grid"

    monkeypatch.setattr("azeotrope.study.config.load_study", lambda path, _: order.append(Path(path).name))
    monkeypatch.setattr("azeotrope.study.run.dry_run_of", lambda *_, **__: Planned())
    monkeypatch.setattr("azeotrope.study.run.run", lambda *_, **__: order.append("run") or finished_runs / "a")
    found = invoke("demo", "--quick", "--runs", finished_runs)
    assert (found.code, order) == (0, ["demo_quick.yaml", "grid", "run"])
    assert "Report: " in found.out


# wrong input


WRONG: list[tuple[tuple[str, ...], int, str]] = [
    (("lst",), 2, "'list'"),
    (("run", "x.yaml", "--worker", "2"), 2, "--workers"),
    (("run", "x.yaml"), 3, "x.yaml"),
    (("run",), 2, "STUDY"),
    (("list", "defense"), 2, "'defenses'"),
    (("show", "adz"), 2, "'ads'"),
    (("status", "nowhere"), 3, "nowhere"),
    (("report", "nowhere"), 3, "nowhere"),
    (("compare", "nowhere", "b"), 3, "nowhere"),
    (("new", "defense", "ads"), 2, "already"),
    (("new", "defense", "Not-A-Name"), 2, "lower-case"),
    (("new", "defense", "mine", "--stage", "logit"), 2, "'logits'"),
    (("traces", "--teacher", "t", "--task", "lookup", "--out", "x.csv"), 2, ".jsonl"),
    (("traces", "--teacher", "t", "--task", "lokup", "--out", "x.jsonl"), 2, "'lookup'"),
    (("traces", "--teacher", "t", "--task", "lookup:max_stpes=2", "--out", "x.jsonl"), 2, "'max_steps'"),
    (("traces", "--teacher", "t", "--task", "lookup", "--defense", "tracegard", "--out", "x.jsonl"), 2,
     "'traceguard'"),
    (("traces", "--teacher", "t", "--task", "lookup", "--n", "0", "--out", "x.jsonl"), 2, "--n"),
    (("attack", "--release", "none.jsonl", "--student", "s", "--out", "o"), 3, "none.jsonl"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "hint"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_input_is_one_sentence(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int,
    hint: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    found = invoke(*arguments)
    assert (found.code, found.out) == (code, "")
    assert one_sentence(found.err)
    assert hint in found.err
    assert list(tmp_path.iterdir()) == []


def test_no_command_shows_the_help(invoke: Invoke) -> None:
    found = invoke()
    assert found.code == 2
    assert "Start here" in found.out
    assert found.err == ""


def test_unexpected_errors_and_interruptions(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def boom(*_: object) -> None:
        raise ZeroDivisionError("seventeen\nlines")

    monkeypatch.setattr(entry, "_dispatch", boom)
    found = invoke("list")
    assert found.code == 1
    assert one_sentence(found.err)
    assert "seventeen" in found.err
    assert "--traceback" in found.err
    assert "Traceback (most recent" in invoke("list", "--traceback").err
    missing = ModuleNotFoundError(name="torch")
    full = OSError(28, "No space left on device")
    for error, code in ((KeyboardInterrupt(), 130), (missing, 3), (MemoryError(), 4), (full, 4)):
        monkeypatch.setattr(entry, "_dispatch", lambda _, error=error: (_ for _ in ()).throw(error))
        assert invoke("list").code == code


def test_interrupting_a_command_is_130(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(studies, "run_folder", interrupted)
    found = invoke("report", "a")
    assert (found.code, found.err.strip()) == (130, "azeotrope: Interrupted.")


# methods and trace files


def test_methods_on_the_command_line() -> None:
    guard = methods.parse("defenses", "traceguard:budget=0.2,unit=sentences,markers=[wait, 'so, then']")
    assert (guard.budget, guard.unit, guard.markers) == (0.2, "sentences", ("wait", "so, then"))
    assert methods.parse("defenses", '{"kind": "traceguard", "budget": 0.2}').budget == 0.2
    for text in ("traceguard:budget", "traceguard:=1", "{nonsense", '{"budget": 1}', "traceguard:budget=[1"):
        with pytest.raises(ConfigError):
            methods.parse("defenses", text)


@pytest.mark.parametrize("suffix", tracefile.SUFFIXES)
def test_trace_files_round_trip(tmp_path: Path, suffix: str) -> None:
    text = '<think>λ "x"</think> 1'
    traces = [Trace(problem_id="p", prompt="Q\u2028\n", text=text, seed=2**62, finished=False, n_tokens=3,
                    token_ids=(1, 2))]  # fmt: skip
    path = tmp_path / f"deep/t{suffix}"
    tracefile.write(traces, path)
    (back,) = tracefile.read(path)
    assert back.token_ids is None
    assert (back.text, back.prompt, back.seed, back.finished) == (traces[0].text, "Q\u2028\n", 2**62, False)


def test_damaged_trace_files(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    (tmp_path / "a.jsonl").write_text('{"prompt": "q", "text": "a"}\n{"prompt"\n')
    for name in ("a.parquet", "a.jsonl"):
        with pytest.raises(RunError):
            tracefile.read(tmp_path / name)
    pl.DataFrame({"prompt": ["q"]}).write_parquet(tmp_path / "b.parquet")
    (tmp_path / "empty.jsonl").write_text("\n")
    for name in ("b.parquet", "empty.jsonl"):
        with pytest.raises(ConfigError):
            tracefile.read(tmp_path / name)
