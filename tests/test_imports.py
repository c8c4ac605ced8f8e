"""Imports go one way, and what must run without torch does."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "azeotrope"
TIERS = (
    {"core"},
    {"maths", "text"},
    {"models", "tasks"},
    {"defenses", "attacks", "detect"},
    {"study"},
    {"report", "gateway", "cli"},
)
TIER = {name: i for i, names in enumerate(TIERS) for name in names}
TORCH_FREE = (
    "core",
    "text",
    "report",
    "detect",
    "defenses.traceguard",
    "defenses.random_sentences",
    "defenses.none",
    "defenses.summary",
    "defenses.answer_only",
    "defenses.hide_reasoning",
    "defenses.label_only",
    "defenses.round_logprobs",
    "defenses.topk_logprobs",
    "gateway",
    "cli.datafile",
    "models.endpoint",
    "study.recommend",
    "study.recommend_policy",
    "study.recommend_tables",
    "study.recommend_words",
    "study.claims",
    "study.claim_rules",
    "study.verdicts",
    "study.vocabulary",
)


def modules() -> dict[str, Path]:
    """Dotted name below azeotrope → file, packages by their own name."""
    out = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        out[".".join(p for p in parts if p != "__init__")] = path
    return out


def imports(path: Path) -> set[str]:
    """What a file imports from azeotrope anywhere, also inside functions; dotted names below azeotrope."""
    found = set()
    inside = path.relative_to(SOURCE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = ("azeotrope", *inside)[: len(inside) + 2 - node.level]
                base = ".".join([*up, base]).strip(".")
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return {name.removeprefix("azeotrope.") for name in found if name.startswith("azeotrope.")}


def package(dotted: str) -> str:
    return dotted.split(".")[0]


def edges() -> dict[str, set[str]]:
    """Package → packages it imports (others than itself)."""
    out: dict[str, set[str]] = {}
    for name, path in modules().items():
        if not name:
            continue
        mine = package(name)
        out.setdefault(mine, set()).update({package(n) for n in imports(path) if package(n) in TIER} - {mine})
    return out


def test_every_package_has_its_place() -> None:
    found = {package(name) for name in modules() if name and (SOURCE / package(name)).is_dir()}
    assert found - {"embedded"} <= set(TIER), "a package without a place in the import order"
    assert len(modules()) > 50


@pytest.mark.parametrize("name", [n for n in modules() if package(n) in TIER])
def test_imports_go_one_way(name: str) -> None:
    mine = TIER[package(name)]
    for other in imports(modules()[name]):
        target = package(other)
        if target in TIER and target != package(name):
            assert TIER[target] <= mine, f"{name} imports {other}"


def test_packages_of_one_tier_do_not_import_each_other_in_circles() -> None:
    assert list(TopologicalSorter(edges()).static_order())


def test_the_parser_sees_every_form_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain, aliased, nested and relative imports."""
    (tmp_path / "core").mkdir()
    path = tmp_path / "core" / "sample.py"
    path.write_text(
        "import azeotrope.study.run\n"
        "from azeotrope.models import lm as x\n"
        "from ..tasks import base\n"
        "def f():\n    from azeotrope.report.build import g\n    return g\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    assert imports(path) == {"study.run", "models.lm", "tasks.base", "report.build.g"}


BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
assert "torch" not in sys.modules
print("fine", len(sys.argv) - 1)
"""


def test_text_core_report_and_text_defenses_need_no_torch() -> None:
    wanted = [
        f"azeotrope.{name}"
        for name in modules()
        if any(name == prefix or name.startswith(prefix + ".") for prefix in TORCH_FREE)
    ]
    assert len(wanted) > 15
    run = subprocess.run(
        [sys.executable, "-c", BLOCKER, *wanted], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.startswith(f"fine {len(wanted)}")


def test_the_blocker_blocks() -> None:
    run = subprocess.run(
        [sys.executable, "-c", BLOCKER, "azeotrope.models.lm"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode != 0
    assert "No module named 'torch'" in run.stderr
