"""Build the page: one file, no network, untrusted text kept as text."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from azeotrope.core.errors import RunError
from azeotrope.report import palette, prose
from azeotrope.report.load import Run, load_run
from azeotrope.report.payload import payload
from azeotrope.report.sections import SECTIONS, Section, shown
from azeotrope.report.svg import plot
from azeotrope.report.verdict import verdict

STYLES = ("page.css",)
SCRIPTS = (
    "base.js", "table.js", "dots.js", "tradeoff.js", "losses.js", *(f"{section.name}.js" for section in SECTIONS),
    "traces.js", "main.js",
)  # fmt: skip


def build(run_dir: Path, out: Path | None = None) -> Path:
    """Write the report of `run_dir` to `out` (by default ``report.html`` in the run folder); return its path.

    Raises MissingError if the run is incomplete and RunError if a file is damaged or cannot be written.
    """
    run = load_run(Path(run_dir))
    target = Path(out) if out is not None else run.folder / "report.html"
    text = render(run)
    partial = target.with_name(target.name + ".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, target)
    except OSError as error:
        raise RunError(f"The report cannot be written to '{target}' ({error.strerror}).") from None
    return target


def render(run: Run) -> str:
    """Return the page as text."""
    script = "(() => {\n'use strict';\n" + "\n".join(_asset(name) for name in SCRIPTS) + "\n})();\n"
    style = palette.css(run.results["defense"].to_list()) + "\n".join(_asset(name) for name in STYLES)
    first = run.results["task"][0]
    return Template(_asset("page.html")).substitute(
        policy=_policy(script),
        name=prose.text(run.manifest.get("name", run.folder.name)),
        facts=prose.facts(run),
        verdict=prose.verdict(verdict(run)),
        notes=prose.notes(run),
        confidence=prose.confidence(run),
        links="\n    ".join(f'<a href="#{section.name}">{section.link}</a>' for section in shown(run)),
        sections="".join(_section(run, section) for section in shown(run)),
        fallback=base64.b64encode(plot(run, first, "student_accuracy").encode()).decode(),
        reproduce=prose.reproduce(run),
        glossary=prose.glossary(run),
        style=style,
        data=embed(payload(run)),
        script=script,
    )


def embed(value: Any) -> str:
    """Return JSON that is safe inside a script element: nothing in it can end the element or open another.

    >>> embed("</script>")
    '"\\\\u003c/script\\\\u003e"'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _section(run: Run, section: Section) -> str:
    return Template(_asset(f"{section.name}.html")).substitute(
        confidence=prose.confidence(run), told=prose.told(section.tell(run))
    )


def _policy(script: str) -> str:
    """A content security policy under which only our own script runs and nothing is fetched."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    return files("azeotrope.report").joinpath(name).read_text(encoding="utf-8")
