"""Where steps come from, summed up."""

from __future__ import annotations

from azeotrope.study.origin import made, origin, place


def test_steps_are_counted_by_place_with_their_days() -> None:
    here = {"cpu": "A", "code_rev": "1", "torch": "2"}
    there = {**here, "cpu": "B"}
    days = ["2026-01-03", "2026-01-01", "2026-01-02"]
    records = [{"made": {**here, "day": day}} for day in days]
    records += [{"made": {**there, "day": "2025-12-31"}}, {}, {"made": {**here, "code_rev": None, "day": days[0]}}]
    assert made(records) == [
        {**there, "first": "2025-12-31", "last": "2025-12-31", "steps": 1},
        {**here, "first": "2026-01-01", "last": "2026-01-03", "steps": 3},
        {**here, "code_rev": None, "first": "2026-01-03", "last": "2026-01-03", "steps": 1},
        {"cpu": None, "code_rev": None, "torch": None, "first": "", "last": "", "steps": 1},
    ]
    assert made([]) == []


def test_the_origin_of_a_step_that_ends_now() -> None:
    found = origin()
    assert {key: found[key] for key in place()} == place()
    assert found["cpu"]
    assert str(found["day"]).count("-") == 2
