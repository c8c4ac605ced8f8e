"""The parts of the page that are plain HTML: facts, verdict, reproduce box, glossary; all escaped."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from azeotrope.report.load import Run
from azeotrope.report.measures import TERMS, measure
from azeotrope.report.sections import measure_names, shown
from azeotrope.report.verdict import ABOVE, BELOW, UNCLEAR, UNREACHED, Finding, Verdict
from azeotrope.report.wording import Told
from azeotrope.study.vocabulary import UNDISTILLED

BIBTEX = """@software{{azeotrope,
  title   = {{Azeotrope: measure and control how well a language model's outputs train its cheaper copy}},
  author  = {{{{The Azeotrope founders}}}},
  version = {{{version}}},
  year    = {{{year}}}
}}"""
_CHIPS = {
    BELOW: ("below", "below its controls"),
    ABOVE: ("above", "above its controls"),
    UNCLEAR: ("unclear", "not separable"),
    UNREACHED: ("unreached", "not reached"),
    "mixed": ("mixed", "depends on the control"),
}


def text(value: Any) -> str:
    """Escape any value for HTML."""
    return html.escape(str(value), quote=True)


def facts(run: Run) -> str:
    """Return the line of facts under the title."""
    found = run.manifest
    parts = [str(found["created"])[:16].replace("T", " ")] if found.get("created") else []
    for task, count in _items(found.get("problems")):
        counts = dict(_items(count))
        test, release = counts.get("test", "?"), counts.get("release", "?")
        parts.append(f"{task}: {test} test problems, {release} released traces")
    distilled = ~pl.col("attack").is_in(["", UNDISTILLED])
    seeds = run.results.filter(distilled)["n_seeds"].drop_nulls().to_list()
    if seeds:
        low, high = min(seeds), max(seeds)
        parts.append(f"{low} student seeds" if low == high else f"{low} to {high} student seeds")
    hardware = dict(_items(found.get("hardware")))
    if hardware:
        parts.append(_hardware(hardware))
    if isinstance(found.get("wall_seconds"), int | float):
        parts.append(f"last invocation {_duration(found['wall_seconds'])}")
    return "".join(f"<li>{text(part)}</li>" for part in parts)


def confidence(run: Run) -> str:
    """Say which intervals these are."""
    settings = dict(_items(dict(_items(run.manifest.get("config"))).get("analysis")))
    level = settings.get("confidence")
    return f"{100 * level:g}\u00a0% intervals" if isinstance(level, int | float) else "intervals"


def verdict(found: Verdict) -> str:
    """Return the verdict: the lead sentence, what adapting brings, what was not tried, one item per finding."""
    items = "".join(_finding(finding) for finding in found.findings)
    listing = f'<ul class="findings">{items}</ul>' if items else ""
    adapted = "".join(
        f"<li><b>{text(one.defense)}</b> on {text(one.task)}. {_joined(one.sentence)}</li>"
        for one in found.adapting
    )
    told = f'<ul class="adapting">{adapted}</ul>' if adapted else ""
    return f'<p class="lead">{text(found.lead)}</p>{told}<p class="caution">{text(found.caution)}</p>{listing}'


def told(found: Sequence[Told]) -> str:
    """Return what a section says in plain words."""
    items = "".join(f"<li><b>{text(one.subject)}</b>. {_joined(one.sentence)}</li>" for one in found)
    return f'<ul class="told">{items}</ul>' if items else ""


def notes(run: Run) -> str:
    """Return what the study says must be known before its numbers are trusted."""
    found = [str(note) for note in run.manifest.get("notes") or []]
    return f'<ul class="notes">{"".join(f"<li>{text(note)}</li>" for note in found)}</ul>' if found else ""


def reproduce(run: Run) -> str:
    """Return the reproduce box."""
    found = run.manifest
    order = " → ".join(str(step).replace("_", " ") for step in found.get("logit_order") or [])
    packages = ", ".join(f"{name} {version}" for name, version in _items(found.get("packages")))
    rows = {
        "Study hash": found.get("study_hash"),
        "Code revision": found.get("code_rev"),
        "Azeotrope": found.get("azeotrope_version"),
        "Logit order": order,
        "Packages": packages,
        "Hardware": _hardware(dict(_items(found.get("hardware")))),
        "Steps made": _made(found),
    }
    listed = "".join(f"<div><dt>{k}</dt><dd>{text(value)}</dd></div>" for k, value in rows.items() if value)
    created = str(found.get("created") or "")
    bibtex = BIBTEX.format(version=found.get("azeotrope_version", "unknown"), year=created[:4] or "n.d.")
    config = json.dumps(found.get("config") or {}, indent=2, ensure_ascii=False, default=str)
    return (
        _copyable("Command", str(found.get("command") or "not recorded"))
        + f'<dl class="facts">{listed}</dl>'
        + _copyable("BibTeX", bibtex)
        + f'<details><summary>Resolved study</summary><pre tabindex="0">{text(config)}</pre></details>'
    )


def glossary(run: Run) -> str:
    """Return the measures of this run and the terms, in plain words."""
    names = measure_names(run)
    measures = [(measure(name).label, measure(name).meaning) for name in names if measure(name).meaning]
    terms = [term for section in shown(run) for term in section.terms]
    return "".join(
        f"<div><dt>{text(label[:1].upper() + label[1:])}</dt><dd>{text(meaning)}</dd></div>"
        for label, meaning in [*measures, *TERMS, *terms]
    )


def _finding(finding: Finding) -> str:
    style, label = _CHIPS[finding.reading]
    return (
        f'<li><p class="finding-head"><b>{text(finding.defense)}</b> on {text(finding.task)}, '
        f"by {text(measure(finding.utility).label)} "
        f'<span class="chip chip-{style}">{label}</span></p><p>{_joined(finding.sentence)}</p></li>'
    )


def _joined(sentence: str) -> str:
    """Escape a sentence and keep its numbers on one line with their units."""
    sentence = re.sub(r"\b([np]) ([=<]) ", "\\1\u00a0\\2\u00a0", sentence)
    return text(re.sub(r"(\d) (seeds?\b|points?\b|%)", "\\1\u00a0\\2", sentence))


def _copyable(title: str, content: str) -> str:
    return (
        f'<div class="copyable"><div class="copy-head"><h3>{title}</h3>'
        f'<button type="button" data-copy>Copy</button></div><pre tabindex="0">{text(content)}</pre></div>'
    )


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    return [(str(key), item) for key, item in value.items()] if isinstance(value, Mapping) else []


def _hardware(found: Mapping[str, Any]) -> str:
    units = {"cpu": "{}", "cores": "{} cores", "memory_gb": "{} GB of memory"}
    known = {key: value for key, value in found.items() if value is not None}
    return ", ".join(units.get(key, key + " {}").format(value) for key, value in known.items())


def _made(manifest: Mapping[str, Any]) -> str:
    """Where the steps come from, unless all come from the code and the machine that the manifest names."""
    known = [dict(_items(one)) for one in manifest.get("made") or []]
    here = (dict(_items(manifest.get("hardware"))).get("cpu"), manifest.get("code_rev"))
    if len(known) < 2 and all((one.get("cpu"), one.get("code_rev")) == here for one in known):
        return ""
    versions, told = {one["torch"] for one in known if one.get("torch")}, []
    for one in known:
        first, last = str(one.get("first") or ""), str(one.get("last") or "")
        days = first if first == last else f"{first} to {last}"
        revision, sign, dirty = str(one.get("code_rev") or "no revision").partition("+")
        torch = f"torch {one.get('torch')}" if len(versions) > 1 else ""
        where = (
            [days, str(one.get("cpu") or ""), revision[:12] + sign + dirty, torch] if first else ["not recorded"]
        )
        told.append(f"{one.get('steps')}: {', '.join(filter(None, where))}")
    return "; ".join(told)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
