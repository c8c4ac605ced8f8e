"""The installed console script, and an install without the optional packages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

BLOCKED = ("torch", "transformers", "tokenizers", "safetensors", "scipy", "peft", "accelerate", "math_verify",
           "reasoning_gym", "datasets")  # fmt: skip
BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
"""


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=cwd, env=environment
    )


def script() -> str:
    return str(Path(sys.executable).with_name("azeotrope"))


def test_console_script(tmp_path: Path) -> None:
    found = run(script(), "list", "--json", cwd=tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    assert "traceguard" in {item["name"] for item in json.loads(found.stdout)["defenses"]}
    wrong = run(script(), "shwo", "ads", cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "Did you mean 'show'?" in wrong.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    found = run("sh", "-c", f"'{script()}' list > /dev/full", cwd=tmp_path)
    assert (found.returncode, len(found.stderr.splitlines())) == (4, 1)
    assert "No space left" in found.stderr
    found = run("sh", "-c", f"'{script()}' list | head -n 1", cwd=tmp_path)
    assert (found.stdout.strip(), found.stderr) == ("Defenses", "")


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c(tmp_path: Path) -> None:
    code = (
        "import time, typer\nfrom azeotrope.cli import entry, studies\n"
        "def slow(*_):\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "studies.run_folder = slow\nraise SystemExit(entry.call(['report', 'x']))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, cwd=tmp_path)  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (130, "azeotrope: Interrupted.\n")


def test_nothing_slow_is_imported_for_help_and_list(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom azeotrope.cli.entry import call\n"
        "assert call(['--help']) == 0 and call(['list']) == 0\n"
        "slow = {'torch', 'transformers', 'polars', 'numpy', 'scipy'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    found = run(sys.executable, "-c", code, cwd=tmp_path)
    assert found.returncode == 0, found.stderr


def test_a_gateway_alone(tmp_path: Path) -> None:
    """`azeotrope[gateway]` serves with keys, limits, records; what needs another extra says which."""
    code = (
        BLOCK.replace(repr(BLOCKED), repr((*BLOCKED, "redis", "psycopg", "opentelemetry")))
        + """
import asyncio, os
from azeotrope.core.errors import MissingError
from azeotrope.gateway.boot import build
from azeotrope.gateway.settings import parse_settings

async def main():
    given = {"upstreams": {"main": {"url": "http://127.0.0.1:1/v1"}},
             "ledger": {"keys": "required", "audit": True, "folder": "ledger"},
             "limits": {"key": {"concurrent": 2}}}
    await build(parse_settings(given, "test")).stop()
    os.environ["R"] = "redis://127.0.0.1:1/0"
    for more in ({"vault": {"redis_env": "R"}}, {"limits": {"key": {"concurrent": 2}, "redis_env": "R"}}):
        try:
            build(parse_settings({**given, **more}, "test"))
        except MissingError as error:
            assert "azeotrope[shared]" in str(error), error
        else:
            raise AssertionError(more)

asyncio.run(main())
"""
    )
    done = run(sys.executable, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_plain_install(tmp_path: Path) -> None:
    """One process, so that the imports are paid once; each command must work or ask for the right package."""
    code = (
        BLOCK
        + """
import contextlib, io, json
from azeotrope.cli.entry import call
open("a.jsonl", "w").write(json.dumps({"text": "<think>Two. Wait, three.</think> 3"}))
found = {}
for line in (["--help"], ["list"], ["list", "--json"], ["doctor", "--json"], ["show", "traceguard"],
             ["defend", "a.jsonl", "-o", "b.jsonl", "--defense", "summary:share=0.4", "--json"],
             ["defend", "a.jsonl", "-o", "c.jsonl", "--defense", "ads"],
             ["show", "ads"], ["new", "defense", "mine", "--stage", "trace"],
             ["evaluate", "--model", "embedded/teacher", "--task", "lookup"],
             ["traces", "--teacher", "x", "--task", "lookup", "--out", "x.jsonl"]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = call(line)
    found[" ".join(line)] = [code, out.getvalue(), err.getvalue()]
from random import Random
from azeotrope.core.types import Trace
from azeotrope.defenses.traceguard import TraceGuard
from azeotrope.text.segment import segment
text = "<think>Two. Wait, three.</think> 3"
trace = Trace(problem_id="p", prompt="q", text=text)
found["guard"] = TraceGuard(budget=1, unit="count").rewrite(trace, Random(0)).text
found["segments"] = segment(text)
print(json.dumps(found))
"""
    )
    done = run(sys.executable, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for line in ("--help", "list", "list --json", "doctor --json", "show traceguard"):
        assert found[line][0] == 0, (line, found[line])
    assert "Traceback" not in done.stdout
    assert "ads" in found["list"][1]
    doctor = json.loads(found["doctor --json"][1])
    assert doctor["problems"] == []
    assert doctor["plugins"]["defenses"]["ads"] == "needs torch"
    assert doctor["plugins"]["defenses"]["traceguard"] == "ok"
    for line in ("show ads", "evaluate --model embedded/teacher --task lookup",
                 "traces --teacher x --task lookup --out x.jsonl"):  # fmt: skip
        code_, out, err = found[line]
        assert (code_, out) == (3, ""), (line, err)
        assert "pip install 'azeotrope[lab]'" in err
    assert found["defend a.jsonl -o b.jsonl --defense summary:share=0.4 --json"][0] == 0
    assert json.loads((tmp_path / "b.jsonl").read_text())["text"] == "<think>Wait, three.</think> 3"
    refused = found["defend a.jsonl -o c.jsonl --defense ads"]
    assert refused[0] == 2
    assert "choose from: answer_only, hide_reasoning" in refused[2]
    assert found["guard"] == "<think>Two. </think> 3"
    assert "".join(found["segments"]) == "<think>Two. Wait, three.</think> 3"
