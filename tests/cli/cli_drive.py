"""What the tests of the command line share."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Invoke = Callable[..., Result]


def load_file(name: str, path: Path) -> ModuleType:
    """Import a file that is not on the path."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def one_sentence(text: str) -> bool:
    """Whether stderr holds exactly one line of ours and no stack trace."""
    lines = text.strip().splitlines()
    return len(lines) == 1 and lines[0].startswith("azeotrope: ") and "Traceback" not in text
