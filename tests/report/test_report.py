"""The report without a browser: contents, rules of the verdict, escaping, damaged and absent files."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from folders import data_of, edit
from synthetic_run import HOSTILE

from azeotrope.core.errors import ConfigError, MissingError, RunError
from azeotrope.report import build, tradeoff_svg
from azeotrope.report.build import embed
from azeotrope.report.curve import read_at
from azeotrope.report.lines import arms_of, kind_of, lines_of
from azeotrope.report.load import load_run
from azeotrope.report.palette import _BUILT_IN, _SPARE, BACKGROUND
from azeotrope.report.traces import cut
from azeotrope.report.verdict import ABOVE, BELOW, UNCLEAR, UNREACHED, caution, reading, verdict

PARTS = ["equal_cost.parquet", "losses.parquet", "costs.parquet", "diffs.json"]


class Outline(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sections: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        if tag == "section":
            self.sections.append(str(given["id"]))
        self.sources += [str(given[name]) for name in ("src", "href") if given.get(name)]


# The page


def test_page_has_all_sections_in_order_and_loads_nothing(finished_run: Path, tmp_path: Path) -> None:
    page = build(finished_run, tmp_path / "deep" / "page.html")
    text = page.read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(text)
    assert outline.sections == [
        "verdict", "tradeoff", "equal", "utility", "gains", "edits", "recovery", "governance", "matrix",
        "detectability", "traces", "losses", "costs", "results", "reproduce", "glossary",
    ]  # fmt: skip
    assert all(source.startswith(("#", "data:")) for source in outline.sources)
    assert "link" not in [tag for tag in outline.tags if tag != "link"]
    assert "default-src 'none'" in text
    assert not list(page.parent.glob("*.partial"))


def test_page_goes_into_the_run_folder_by_default_and_is_deterministic(copied: Path) -> None:
    first = build(copied).read_bytes()
    assert build(copied) == copied / "report.html"
    assert (copied / "report.html").read_bytes() == first


def test_page_shows_every_result_and_the_manifest(finished_run: Path, tmp_path: Path) -> None:
    text = build(finished_run, tmp_path / "page.html").read_text(encoding="utf-8")
    data = data_of(text)
    assert len(data["results"]["value"]) == pl.read_parquet(finished_run / "results.parquet").height
    order = "repetition penalty → temperature → defense"
    for part in ("9f2c1a7be4d05533", "557a4c3d9e0b", order, "@software{azeotrope"):
        assert part in text
    assert "95\u00a0% intervals" in text


def test_steps_from_several_places_are_told(copied: Path, tmp_path: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text(encoding="utf-8"))
    one = {"cpu": "Example CPU", "code_rev": "557a4c3d9e0b11", "torch": "2.8.0", "steps": 7}
    days = {"first": "2026-01-04", "last": "2026-01-05"}
    unknown = {"cpu": None, "code_rev": None, "torch": None, "first": "", "last": "", "steps": 3}

    def page(*made: dict[str, object]) -> str:
        (copied / "manifest.json").write_text(json.dumps({**manifest, "made": made}), encoding="utf-8")
        return build(copied, tmp_path / "page.html").read_text(encoding="utf-8")

    told = page({**one, **days}, unknown)
    assert "7: 2026-01-04 to 2026-01-05, Example CPU, 557a4c3d9e0b; 3: not recorded" in told
    assert "7: 2026-01-04 to 2026-01-05, Example CPU" in page({**one, **days}), "not those of the last invocation"
    last = {"cpu": manifest["hardware"]["cpu"], "code_rev": manifest["code_rev"]}
    assert "Steps made" not in page({**one, **days, **last}), "the hardware says it already"
    dirty = {"code_rev": "557a4c3d9e0b11+dirty", "torch": "2.9", "last": "2026-01-04"}
    assert "7: 2026-01-04, Example CPU, 557a4c3d9e0b+dirty, torch 2.9" in page(
        {**one, **days}, {**one, **days, **dirty}
    )


def test_missing_numbers_become_null(copied: Path, tmp_path: Path) -> None:
    broken = {"low": pl.lit(float("nan")), "high": pl.lit(float("inf"))}
    edit(copied, "results.parquet", lambda f: f.with_columns(**broken))
    data = data_of(build(copied, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert set(data["results"]["low"]) == {None} == set(data["results"]["high"])


# Untrusted text


def test_hostile_text_cannot_leave_the_data_island(copied: Path, tmp_path: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text(encoding="utf-8"))
    manifest |= {"name": HOSTILE, "command": HOSTILE, "notes": [HOSTILE], "packages": {HOSTILE: HOSTILE}}
    (copied / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    hostile = [pl.col("task").replace("lookup", HOSTILE), pl.col("defense").replace("gaussian", HOSTILE)]
    edit(copied, "results.parquet", lambda f: f.with_columns(hostile))
    text = build(copied, tmp_path / "page.html").read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(text)
    assert outline.tags.count("script") == 2
    assert "<script>window.pwned" not in text
    assert "img" not in [tag for tag in outline.tags if tag == "img"][1:]  # only the noscript fallback
    assert HOSTILE in data_of(text)["diffs"]["problems"][2]["prompt"]
    ET.fromstring(tradeoff_svg(copied, HOSTILE, "student_accuracy"))


@pytest.mark.parametrize("text", [HOSTILE, "</SCRIPT >", "<!--<script", "\u2028\u2029", "\ud800", "🙂"])
def test_embedding_is_lossless_and_inert(text: str) -> None:
    embedded = embed({"text": text})
    assert not set(embedded) & set("<>&\u2028\u2029")
    assert json.loads(embedded) == {"text": text}


# Absent and damaged files


@pytest.mark.parametrize("name", PARTS)
def test_absent_parts_are_left_out(copied: Path, tmp_path: Path, name: str) -> None:
    (copied / name).unlink()
    text = build(copied, tmp_path / "page.html").read_text(encoding="utf-8")
    key = {"equal_cost.parquet": "equal", "diffs.json": "diffs"}.get(name, name.removesuffix(".parquet"))
    assert data_of(text)[key] is None
    if name == "equal_cost.parquet":
        assert "no verdict is drawn" in text


@pytest.mark.parametrize("name", ["manifest.json", "results.parquet"])
def test_incomplete_run_says_so(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(MissingError, match=re.escape(name)):
        build(copied)


@pytest.mark.parametrize("name", ["results", "equal_cost", "losses", "costs"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.97])
def test_truncated_parquet_is_one_sentence(copied: Path, name: str, keep: float) -> None:
    path = copied / f"{name}.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(RunError) as caught:
        build(copied)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert message.endswith(".")
    assert not (copied / "report.html").exists()


def test_damaged_json_and_wrong_columns_are_one_sentence(copied: Path) -> None:
    (copied / "diffs.json").write_text('[{"task": "arithmetic"}]', encoding="utf-8")
    with pytest.raises(RunError, match="contract"):
        build(copied)
    (copied / "diffs.json").write_text("[{", encoding="utf-8")
    with pytest.raises(RunError, match="JSON"):
        build(copied)
    edit(copied, "results.parquet", lambda f: f.drop("n_seeds", "low"))
    with pytest.raises(RunError, match="lacks the columns low, n_seeds"):
        build(copied)


def test_unwritable_target_is_one_sentence(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        build(finished_run, tmp_path / "file" / "page.html")


# The verdict


def test_reading_follows_the_interval() -> None:
    assert reading(-0.05, -0.01, "ok") == BELOW
    assert reading(0.01, 0.05, "ok") == ABOVE
    assert reading(-0.01, 0.05, "ok") == reading(0.0, 0.0, "ok") == UNCLEAR
    assert reading(None, None, "not reached") == reading(-1.0, -0.5, "not reached") == UNREACHED


def test_verdict_covers_defenses_not_controls_and_names_the_worst_cell(finished_run: Path) -> None:
    found = verdict(load_run(finished_run))
    assert {finding.defense for finding in found.findings} == {"ads", "traceguard"}
    ads = next(f for f in found.findings if f.defense == "ads")
    assert (ads.task, ads.utility) == ("arithmetic", "teacher_accuracy")
    assert "worst-case student (gpt-small, sft_filtered) at about" in ads.sentence
    number = r"−\d+\.\d"
    pattern = rf"temperature {number} points \[{number}, {number}\] \(p < \.001, n = 400, 5 seeds\)"
    assert re.search(pattern, ads.sentence)
    assert set(ads.readings) == {"temperature", "permutation"}
    assert "sft, sft_filtered" in found.caution


def test_verdict_says_not_separable_and_not_reached(finished_run: Path) -> None:
    found = verdict(load_run(finished_run)).findings
    guard = {f.utility: f for f in found if f.defense == "traceguard" and f.task == "arithmetic"}
    assert guard["trace_validity"].reading == UNCLEAR
    assert "not separable" in guard["trace_validity"].sentence
    assert guard["teacher_accuracy"].reading == UNREACHED
    assert "not reached" in guard["teacher_accuracy"].sentence
    assert "largest drop" in guard["teacher_accuracy"].sentence


def test_verdict_reports_a_defense_that_leaks_more(copied: Path) -> None:
    edit(copied, "equal_cost.parquet", lambda f: f.with_columns(
        difference=-pl.col("difference"), low=-pl.col("high"), high=-pl.col("low")))  # fmt: skip
    found = verdict(load_run(copied))
    assert "ads is above temperature and permutation" in found.lead
    assert "it leaks more" in next(f for f in found.findings if f.defense == "ads").sentence


def test_verdict_says_when_only_the_reference_fell_short(copied: Path) -> None:
    edit(copied, "equal_cost.parquet", lambda f: f.with_columns(status=pl.lit("not reached")))
    ads = next(f for f in verdict(load_run(copied)).findings if f.defense == "ads")
    assert ads.reading == UNREACHED
    assert re.search(r"lost up to \d+\.\d points; temperature and permutation did not lose 5", ads.sentence)


def test_lead_names_defenses_with_the_same_reading_together(copied: Path) -> None:
    edit(copied, "equal_cost.parquet", lambda f: f.with_columns(
        difference=pl.lit(0.0), low=pl.lit(-0.1), high=pl.lit(0.1), status=pl.lit("ok"),
        reference=pl.lit("temperature")))  # fmt: skip
    lead = verdict(load_run(copied)).lead
    assert lead.endswith("teacher accuracy: ads and traceguard are not separable from temperature.")


@pytest.mark.parametrize("attacks", [["sft"], ["sft(epochs=3)"], ["sft", "sft(lr=0.1)"]])
def test_a_passive_student_alone_is_never_evidence(attacks: list[str]) -> None:
    assert "not evidence that a defense is effective" in caution(attacks)


@pytest.mark.parametrize("only", [["sft"], ["sft", "sft_filtered"]])
def test_no_page_claims_effectiveness(copied: Path, tmp_path: Path, only: list[str]) -> None:
    edit(copied, "results.parquet", lambda f: f.filter(pl.col("attack").is_in([*only, "", "undistilled"])))
    text = build(copied, tmp_path / "page.html").read_text(encoding="utf-8")
    body = text[text.index('id="verdict"') : text.index('id="tradeoff"')]
    assert not re.search(r"(?<!that a defense is )\beffective|\bprotects|\bworks\b|\bsafe\b", body)


def test_headline_metric_is_used(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text(encoding="utf-8"))
    manifest["headline"] = {"metric": "recall_hidden", "attack": "sft"}
    (copied / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert verdict(load_run(copied)).lead.startswith("By recall of hidden facts")


# Pieces


def test_read_at_takes_the_first_crossing_and_never_extrapolates() -> None:
    path = [(0.9, 0.7), (0.8, 0.5), (0.85, 0.6), (0.7, 0.2)]
    assert read_at(path, 0.85) == pytest.approx(0.6)
    assert read_at(path, 0.65) is None
    assert read_at([(0.9, 0.7)], 0.85) is None


def test_lines_split_by_parameters_but_not_by_the_dial() -> None:
    rows = [
        {"arm": f"ads(lam={lam:g}" + (f", sign={sign})" if sign < 0 else ")"), "strength": lam,
         "params": json.dumps({"lam": lam, "sign": sign, "backend": "exact"})}
        for sign in (-1, 1) for lam in (0.2, 0.1)
    ]  # fmt: skip
    frame = pl.DataFrame(rows).with_columns(
        task=pl.lit("t"), defense=pl.lit("ads"), is_control=pl.lit(False), attack=pl.lit("")
    )
    found = lines_of(arms_of(frame, "t"))
    assert [line.label for line in found] == ["ads", "ads(sign=-1)"]
    assert [arm.strength for arm in found[0].arms] == [0.1, 0.2]


def test_lines_of_compositions_are_named_as_in_the_comparison() -> None:
    rows = [
        {"arm": f"ads(lam={lam:g}, proxy={proxy}) + traceguard(budget=0.2)", "strength": lam,
         "params": json.dumps([{"lam": lam, "proxy": proxy}, {"budget": 0.2}])}
        for proxy in "ab" for lam in (0.1, 0.2)
    ]  # fmt: skip
    frame = pl.DataFrame(rows).with_columns(
        task=pl.lit("t"), defense=pl.lit("ads+traceguard"), is_control=pl.lit(False), attack=pl.lit("")
    )
    found = lines_of(arms_of(frame, "t"))
    assert [line.label for line in found] == [f"ads(proxy={p}) + traceguard(budget=0.2)" for p in "ab"]
    assert {kind_of(line.label) for line in found} == {"ads+traceguard"}


def test_cut_tiles_the_text_whatever_the_spans() -> None:
    text = "a🙂bcdef"
    pieces = cut(text, [(5, 99), (1, 2), (1, 3), (4, 4), (-3, 0)])
    assert "".join(piece["text"] for piece in pieces) == text
    assert [piece["text"] for piece in pieces if piece.get("removed")] == ["🙂", "b", "ef"]


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_line_color_has_contrast_in_both_themes() -> None:
    for look in (*_BUILT_IN.values(), *_SPARE):
        for color, background in zip((look.light, look.dark), BACKGROUND, strict=True):
            low, high = sorted((luminance(color), luminance(background)))
            assert (high + 0.05) / (low + 0.05) >= 3, color


def test_svg_is_well_formed_and_shares_the_colors(finished_run: Path) -> None:
    text = tradeoff_svg(finished_run, "arithmetic", "student_accuracy", "gpt-small")
    root = ET.fromstring(text)
    assert root.get("role") == "img"
    assert "prefers-color-scheme:dark" in text
    assert _BUILT_IN["ads"].light in text
    assert _BUILT_IN["ads"].dark in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    with pytest.raises(ConfigError, match="Did you mean 'arithmetic'"):
        tradeoff_svg(finished_run, "arithmetics", "student_accuracy")
