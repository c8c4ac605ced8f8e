"""The file that `new defense` writes: it lints, imports, and is the identity at strength 0."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cli_drive import ROOT, Invoke, load_file

from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import Stage, parse_method
from azeotrope.core.types import Trace, split_answer

TEXT = (
    "<think>\nFirst, two and two is four. Wait, is it? Yes.\n\nSo \\boxed{4}. Done.</think>\nThe answer is 4. Bye."
)


def scaffold(invoke: Invoke, folder: Path, stage: str) -> Any:
    found = invoke("new", "defense", f"my_{stage}_idea", "--stage", stage, "--dir", folder, "--json")
    assert found.code == 0, found.err
    told = json.loads(found.out)
    cls = f"My{stage.capitalize()}Idea"
    assert f'my_{stage}_idea = "my_{stage}_idea:{cls}"' in told["entry_point"]
    module = load_file(f"my_{stage}_idea", Path(told["file"]))
    return getattr(module, cls)


def check_contract(method: Any, kind: str) -> None:
    """What holds for every defense, whatever its stage."""
    assert method.kind == kind
    assert method.summary
    assert method.__doc__
    assert method.dial in method.model_fields
    assert method().at(0.0).strength == 0.0
    assert method.model_validate(json.loads(method().model_dump_json())) == method()
    assert all(method().at(value).strength == value for value in method.sweep)
    with pytest.raises(ConfigError, match="Did you mean"):
        parse_method(method, {method.dial + "s": 1}, kind)
    with pytest.raises(ConfigError):
        parse_method(method, {method.dial: -1}, kind)


@pytest.mark.parametrize("stage", ["logits", "trace"])
def test_the_file_lints(invoke: Invoke, tmp_path: Path, stage: str) -> None:
    scaffold(invoke, tmp_path / "new", stage)
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), "--no-cache",
         str(tmp_path / "new")], capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout
    again = invoke("new", "defense", f"my_{stage}_idea", "--dir", tmp_path / "new")
    assert again.code == 2
    assert "exists already" in again.err


def test_trace_scaffold(invoke: Invoke, tmp_path: Path) -> None:
    method = scaffold(invoke, tmp_path, "trace")
    check_contract(method, "my_trace_idea")
    assert method.stage is Stage.TRACE
    trace = Trace(problem_id="p", prompt="q", text=TEXT)
    assert method(share=0).rewrite(trace, Random(0)) is trace
    lengths = []
    for share in (0.2, 0.5, 1.0):
        one, two = (method(share=share).rewrite(trace, Random(1)).text for _ in range(2))
        assert one == two
        assert split_answer(one)[1] == split_answer(TEXT)[1]
        assert "\\boxed{4}" in one
        assert one.startswith("<think>")
        lengths.append(len(one))
    assert sorted(lengths, reverse=True) == lengths
    assert lengths[-1] < len(TEXT)


def test_logits_scaffold(invoke: Invoke, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from azeotrope.models.decode import Batch, StepView

    method = scaffold(invoke, tmp_path, "logits")
    check_contract(method, "my_logits_idea")
    assert method.stage is Stage.LOGITS
    logits = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    logits[:, 7] = float("-inf")
    before = logits.clone()
    seeds = torch.arange(5)
    moved = []
    for amount in (0.0, 0.5, 1.0):
        session = method(amount=amount).bind(None).open(Batch(((1,),) * 5, seeds))
        after = session.step(StepView(torch.tensor(0), None, logits, None, seeds))
        order = torch.randperm(5)
        swapped = session.step(StepView(torch.tensor(0), None, logits[order], None, seeds[order]))
        assert torch.equal(swapped, after[order])
        assert torch.equal(logits, before)
        assert after.dtype == logits.dtype
        assert not after.isnan().any()
        moved.append(float((after.softmax(-1) - logits.softmax(-1)).abs().sum()))
        if amount == 0:
            assert torch.equal(after, logits)
    assert moved[0] == 0.0
    assert moved[1] < moved[2]


@pytest.mark.slow
def test_scaffolds_pass_the_conformance_tests(invoke: Invoke, tmp_path: Path) -> None:
    """Installed as a plugin, both files pass what every registered defense must pass."""
    pytest.importorskip("torch")
    entries = ["[azeotrope.defenses]"]
    for stage in ("logits", "trace"):
        found = invoke("new", "defense", f"fresh_{stage}", "--stage", stage, "--dir", tmp_path, "--json")
        entries.append(json.loads(found.out)["entry_point"].splitlines()[1].replace('"', ""))
    info = tmp_path / "fresh-0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fresh\nVersion: 0.0\n")
    (info / "entry_points.txt").write_text("\n".join(entries) + "\n")
    paths = os.pathsep.join([str(tmp_path), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "fresh_",
         "tests/conformance/test_every_defense.py"],
        capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "passed" in done.stdout
