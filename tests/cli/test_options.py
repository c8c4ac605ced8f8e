"""The command line is a promise: a change of it must be a change of this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from cli_drive import ROOT, Invoke, load_file

from azeotrope.cli.app import app

OPTIONS = {
    "azeotrope": ["--version", "--traceback"],
    "azeotrope demo": ["--quick", "--runs", "--workers", "--open", "--json"],
    "azeotrope doctor": ["--runs", "--json"],
    "azeotrope list": ["WHAT", "--json"],
    "azeotrope show": ["METHOD", "--json"],
    "azeotrope run": ["STUDY", "--dry-run", "--set", "--workers", "--runs", "--json"],
    "azeotrope status": ["RUN", "--runs", "--json"],
    "azeotrope report": ["RUN", "--out", "--open", "--runs", "--json"],
    "azeotrope compare": ["RUN_A", "RUN_B", "--metric", "--runs", "--json"],
    "azeotrope claims": ["TRIAL", "--part", "--dry-run", "--decide", "--set", "--workers", "--runs", "--json"],
    "azeotrope archive": ["RUN", "--out", "--texts", "--runs", "--json"],
    "azeotrope restore": ["ARCHIVES", "--runs", "--json"],
    "azeotrope recommend": ["RUN", "--limit", "--task", "--leakage", "--strict", "--out", "--force", "--runs",
                            "--json"],
    "azeotrope traces": ["--teacher", "--task", "--out", "--n", "--defense", "--temperature", "--seed",
                         "--resample", "--json"],
    "azeotrope merge": ["DEFENSE", "--teacher", "--task", "--out", "--temperature", "--seed", "--json"],
    "azeotrope attack": ["--release", "--student", "--out", "--attack", "--seed", "--json"],
    "azeotrope evaluate": ["--model", "--task", "--n", "--temperature", "--seed", "--json"],
    "azeotrope epsilon": ["--teacher", "--proxy", "--task", "--n", "--seed", "--json"],
    "azeotrope detect": ["DEFENDED", "CLEAN", "--resample", "--detector", "--seed", "--json"],
    "azeotrope extract": ["ENDPOINT", "--tokenizer", "--out", "--prompts", "--task", "--n", "--method", "--k",
                          "--bias", "--resolution", "--max-queries", "--vocabulary", "--token-ids", "--whole",
                          "--tolerance", "--checks", "--seed", "--force", "--json"],
    "azeotrope defend": ["SOURCE", "--out", "--defense", "--field", "--seed", "--force", "--json"],
    "azeotrope serve": ["--config", "--upstream", "--teacher", "--policy", "--host", "--port", "--workers"],
    "azeotrope probe": ["--config", "--upstream", "--model", "--max-tokens", "--json"],
    "azeotrope policy": [],
    "azeotrope policy check": ["FILE", "--json"],
    "azeotrope policy explain": ["FILE", "--tier", "--tenant", "--model", "--dialect", "--level", "--stream",
                                 "--tools", "--logprobs", "--reasoning", "--most-tokens", "--json"],
    "azeotrope keys": [],
    "azeotrope keys create": ["--tenant", "--tier", "--note", "--expires", "--folder", "--database", "--json"],
    "azeotrope keys list": ["--tenant", "--folder", "--database", "--json"],
    "azeotrope keys revoke": ["KEY", "--folder", "--database", "--json"],
    "azeotrope keys rotate": ["KEY", "--overlap", "--folder", "--database", "--json"],
    "azeotrope audit": [],
    "azeotrope audit verify": ["--heads", "--head", "--public-key", "--originals", "--folder", "--database",
                               "--json"],
    "azeotrope audit export": ["--out", "--since", "--until", "--tenant", "--auditor-key", "--force",
                               "--folder", "--database"],
    "azeotrope audit auditor-key": ["FILE", "--json"],
    "azeotrope signals": [],
    "azeotrope signals replay": ["LOG", "--calibration", "--secret-env", "--json"],
    "azeotrope signals calibrate": ["--out", "LOG", "--simulated", "--alpha", "--seed", "--secret-env", "--json"],
    "azeotrope signals simulate": ["--calibration", "--seeds", "--questions", "--quick", "--secret-env", "--json"],
    "azeotrope new": [],
    "azeotrope new defense": ["NAME", "--stage", "--dir", "--json"],
}  # fmt: skip


GROUPS = ("azeotrope", "azeotrope new", "azeotrope policy", "azeotrope keys", "azeotrope audit",
          "azeotrope signals")  # fmt: skip
# It runs until it is stopped; it writes JSON lines.
WITHOUT_JSON = (*GROUPS, "azeotrope serve", "azeotrope audit export")


def parameters(command: Any, path: str) -> dict[str, list[str]]:
    names = [p.name.upper() if p.param_type_name == "argument" else p.opts[0] for p in command.params]
    found = {path: [name for name in names if name not in ("-h", "--help")]}
    for name, below in getattr(command, "commands", {}).items():
        found |= parameters(below, f"{path} {name}")
    return found


def test_the_options_are_frozen() -> None:
    assert parameters(typer.main.get_command(app), "azeotrope") == OPTIONS


def test_every_command_has_json_and_every_option_a_help_text() -> None:
    for path, names in OPTIONS.items():
        assert path in WITHOUT_JSON or "--json" in names

    def walk(command: Any) -> None:
        assert command.help
        assert all(p.help for p in command.params), command.name
        for below in getattr(command, "commands", {}).values():
            walk(below)

    walk(typer.main.get_command(app))


def test_help_snapshot(invoke: Invoke) -> None:
    """The first thing a newcomer sees. To accept a change, write the new text to help.txt."""
    found = invoke("--help")
    assert found.code == 0
    words = " ".join(found.out.translate({ord(c): " " for c in "│╭╮╰╯─"}).split())
    assert words == " ".join((Path(__file__).parent / "help.txt").read_text(encoding="utf-8").split())


@pytest.mark.slow
def test_generated_docs_are_current() -> None:
    pytest.importorskip("reasoning_gym")
    make_docs = load_file("make_docs", ROOT / "scripts" / "make_docs.py")
    assert make_docs.stale() == [], "run: make docs"
