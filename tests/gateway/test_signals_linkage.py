"""Linkage: rare things in common link, one kind alone never does, links fade, memory is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azeotrope.gateway.signals import linkage
from azeotrope.gateway.signals.linkage import KIND, KINDS, Linker, components
from azeotrope.maths.sketches import MASK

DAY = 86400.0
QUARTER = 900.0


def mark(name: str) -> int:
    return hash((name, "mark")) & MASK


def linker(strength: float = 2.0) -> Linker:
    return Linker(strength, 7 * DAY)


def populate(found: Linker, n: int, now: float = 0.0, **shared: int) -> None:
    for i in range(n):
        own = {kind: mark(f"{kind}{i}") for kind in KINDS[1:]}
        found.see(f"stranger{i}", mark(f"stranger{i}"), {**own, **shared}, (), now)


def test_tenants_with_rare_things_in_common_are_linked() -> None:
    found = linker()
    populate(found, 300)
    shared = {"payment": 1, "agent": 2, "tls": 3}
    for name in ("a", "b", "c"):
        found.see(name, mark(name), shared, (), 10.0)
    found.see("d", mark("d"), {"payment": 9}, (), 10.0)
    found.see("x", mark("x"), {}, (), QUARTER + 1)
    assert found.clusters == (("a", "b", "c"),)
    assert found.strength("a", "b", 10.0) > 2
    assert found.strength("a", "d", 10.0) == 0


def test_the_same_number_of_another_kind_is_another_item() -> None:
    found = linker()
    populate(found, 300)
    found.see("a", mark("a"), {"ip": 1, "asn": 2, "tls": 3}, (), 0.0)
    found.see("b", mark("b"), {"ip": 3, "asn": 1, "tls": 2}, (), 0.0)
    assert found.strength("a", "b", 0.0) == 0
    for name in ("c", "d"):
        found.see(name, mark(name), {"ip": 9, "asn": 9, "tls": 9}, (), 0.0)
    assert found.strength("c", "d", 0.0) > 2


@given(st.sampled_from(KINDS[1:]), st.integers(1, 12), st.integers(0, 200))
@settings(max_examples=20)
def test_one_kind_alone_never_links(kind: str, times: int, others: int) -> None:
    found = linker(strength=KIND + 1e-6)
    populate(found, others)
    for i in range(times):
        for name in ("a", "b"):
            found.see(name, mark(name), {kind: 1000 + i}, (), float(i))
    found.see("x", mark("x"), {}, (), QUARTER + times)
    assert ("a", "b") not in found.clusters
    assert found.strength("a", "b", 0.0) <= KIND + 1e-6


def test_common_things_do_not_link() -> None:
    found = linker(strength=0.85)
    populate(found, 200, agent=1, tls=2, asn=3)
    found.see("x", mark("x"), {}, (), QUARTER + 1)
    assert found.clusters == ()


def test_templates_link_once_they_recur_and_count_as_one_kind() -> None:
    found = linker(strength=1.2)
    populate(found, 300)
    for time in range(4):
        for name in ("a", "b"):
            found.see(name, mark(name), {"agent": 5}, (11, 12, 13, 14), float(time))
    found.see("x", mark("x"), {}, (15,), QUARTER + 5)
    assert found.clusters == (("a", "b"),)
    assert found.strength("a", "b", 5.0) <= 2 * KIND + 1e-6
    assert found.items < 300 * 5 + 10


def test_links_fade() -> None:
    found = linker()
    populate(found, 300)
    for name in ("a", "b"):
        found.see(name, mark(name), {"payment": 1, "agent": 2, "tls": 3}, (), 0.0)
    strengths = [found.strength("a", "b", day * DAY) for day in (0, 3, 7, 14)]
    assert strengths == sorted(strengths, reverse=True)
    found.see("x", mark("x"), {}, (), QUARTER + 1)
    assert found.clusters
    found.see("x", mark("x"), {}, (), 14 * DAY)
    assert found.clusters == ()


def test_a_link_stays_while_it_is_shown() -> None:
    found = linker()
    populate(found, 300)
    for day in range(20):
        for name in ("a", "b"):
            found.see(name, mark(name), {"payment": 1, "agent": 2, "tls": 3}, (), day * DAY)
        populate(found, 300, day * DAY)
    assert ("a", "b") in found.clusters


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linkage, "ITEMS", 100)
    monkeypatch.setattr(linkage, "PAIRS", 50)
    found = linker()
    for i in range(400):
        found.see(f"t{i}", mark(f"t{i}"), {"asn": i // 4, "ip": i // 3, "tls": i // 2}, (i, i + 1), float(i))
    assert found.items <= 100
    assert found.pairs <= 50


def test_the_population_is_that_of_the_current_or_the_last_period() -> None:
    found = linker()
    assert found.population == 2
    populate(found, 500)
    populate(found, 500)
    assert found.population == 500
    found.see("x", mark("x"), {}, (), 4 * DAY)
    assert found.population == 500
    found.see("x", mark("x"), {}, (), 8 * DAY)
    assert found.population == 2


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("abcdefgh")), max_size=12))
def test_components_by_flooding(edges: list[tuple[str, str]]) -> None:
    def flood(name: str) -> frozenset[str]:
        reached, todo = {name}, [name]
        while todo:
            at = todo.pop()
            for pair in edges:
                if at in pair:
                    todo += [other for other in pair if other not in reached]
                    reached |= set(pair)
        return frozenset(reached)

    expected = {group for name in "abcdefgh" if len(group := flood(name)) > 1}
    assert set(map(frozenset, components(edges))) == expected


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60), st.integers(2, 6))
def test_components_stay_small(edges: list[tuple[int, int]], largest: int) -> None:
    groups = components([(str(a), str(b)) for a, b in edges], largest)
    assert all(len(group) <= largest for group in groups)
    assert len({name for group in groups for name in group}) == sum(map(len, groups))
