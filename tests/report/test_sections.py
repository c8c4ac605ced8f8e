"""The optional sections without a browser: shown only with rows, tolerant of old and damaged folders, inert."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import polars as pl
import pytest
from folders import data_of, edit, section_of
from synthetic_run import HOSTILE

from azeotrope.core.errors import RunError
from azeotrope.report import build
from azeotrope.report.load import load_run
from azeotrope.report.measures import MEASURES, TEACHER_UTILITIES, measure
from azeotrope.report.sections import SECTIONS, Section, measure_names

every_section = pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)


def page_of(folder: Path) -> str:
    return build(folder).read_text(encoding="utf-8")


@every_section
def test_what_is_read_is_what_a_study_writes(section: Section) -> None:
    written = importlib.import_module(f"azeotrope.study.{section.name}").SCHEMA
    assert {name: written[name] for name in section.schema} == section.schema


@every_section
@pytest.mark.parametrize("empty", [False, True])
def test_without_rows_there_is_no_section(copied: Path, section: Section, empty: bool) -> None:
    marks = [f'id="{section.name}"', f'href="#{section.name}"', *(f"<dt>{term}</dt>" for term, _ in section.terms)]
    before = page_of(copied)
    assert all(mark in before for mark in marks)
    if empty:
        edit(copied, f"{section.name}.parquet", lambda frame: frame.clear())
    else:
        (copied / f"{section.name}.parquet").unlink()
    after = page_of(copied)
    assert not any(mark in after for mark in marks)
    assert data_of(after)[section.name] is None


def test_a_run_of_an_older_version_has_none_of_them(copied: Path) -> None:
    for section in SECTIONS:
        (copied / f"{section.name}.parquet").unlink()
    assert not any(section_of(page_of(copied), section.name) for section in SECTIONS)


@every_section
def test_the_page_holds_the_columns_that_are_drawn_and_no_others(copied: Path, section: Section) -> None:
    edit(copied, f"{section.name}.parquet", lambda frame: frame.with_columns(later=pl.lit("by another version")))
    assert list(data_of(page_of(copied))[section.name]) == list(section.schema)


@every_section
def test_missing_columns_and_wrong_types_are_one_sentence(copied: Path, section: Section) -> None:
    name, last = f"{section.name}.parquet", list(section.schema)[-2]
    whole = pl.read_parquet(copied / name)
    whole.drop(last).write_parquet(copied / name)
    with pytest.raises(RunError, match=rf"{section.name}\.parquet' lacks the columns {last}; it was written"):
        build(copied)
    whole.with_columns(pl.lit("many").alias("n")).write_parquet(copied / name)
    with pytest.raises(RunError, match=rf"{section.name}\.parquet' holds a column of the wrong type"):
        build(copied)


@every_section
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.97])
def test_a_truncated_table_is_one_sentence(copied: Path, section: Section, keep: float) -> None:
    path = copied / f"{section.name}.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(RunError) as caught:
        build(copied)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


@every_section
@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_numbers_may_all_be_missing(copied: Path, section: Section, value: float | None) -> None:
    floats = [name for name, kind in section.schema.items() if kind == pl.Float64]
    edit(copied, f"{section.name}.parquet", lambda frame: frame.with_columns(
        pl.lit(value, dtype=pl.Float64).alias(name) for name in floats))  # fmt: skip
    text = page_of(copied)
    assert {v for name in floats for v in data_of(text)[section.name][name]} == {None}
    assert not re.search(r"\b(nan|None|inf)\b", section_of(text, section.name))


@every_section
def test_hostile_names_stay_text(copied: Path, section: Section) -> None:
    strings = [name for name, kind in section.schema.items() if kind == pl.String and name != "status"]
    edit(copied, f"{section.name}.parquet", lambda frame: frame.with_columns(
        (pl.col(name) + HOSTILE).alias(name) for name in strings))  # fmt: skip
    text = page_of(copied)
    assert "<script>window.pwned" not in text
    assert not re.search(r"<img src=x", section_of(text, section.name))
    assert HOSTILE in data_of(text)[section.name][strings[0]][0]


def test_every_measure_of_the_tables_is_named_and_explained(finished_run: Path) -> None:
    names = measure_names(load_run(finished_run))
    assert [name for name in names if not measure(name).meaning] == []
    assert len({measure(name).label for name in names}) == len(names)


def test_measures_have_distinct_names_and_labels() -> None:
    assert len({found.name for found in MEASURES}) == len({found.label for found in MEASURES}) == len(MEASURES)
    assert {"reader_accuracy", "grounding"} < set(TEACHER_UTILITIES)
