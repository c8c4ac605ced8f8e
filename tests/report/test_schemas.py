"""The page reads the tables as studies write them."""

from __future__ import annotations

from importlib import import_module

import polars as pl
import pytest

from azeotrope.report import schemas

TABLES = ("gains", "edits", "predictors", "recovery", "utility", "governance", "matrix", "detectability")


@pytest.mark.parametrize("name", TABLES)
def test_columns_are_those_of_the_study(name: str) -> None:
    written = import_module(f"azeotrope.study.{name}").SCHEMA
    read = getattr(schemas, name.upper())
    assert pl.Schema({column: written.get(column) for column in read}) == pl.Schema(read)
