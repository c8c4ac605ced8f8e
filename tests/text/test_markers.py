from __future__ import annotations

import subprocess
import sys
import time

import pytest

from azeotrope.text.markers import DEFAULT_MARKERS, marker_set
from azeotrope.text.taxonomy import Category, categorize


@pytest.mark.parametrize(
    ("sentence", "marker"),
    [
        ("Wait, that is wrong.", "wait"),
        ("WAIT that", "wait"),
        ("But wait, no.", "but wait"),
        ("  **Wait**, no", "wait"),
        ('"Hmm, maybe."', "hmm"),
        ("Hmm", "hmm"),
        ("Let me double-check.", "let me double-check"),
        ("Let me  verify it", "let me verify"),
        ("I’m not sure", "i'm not sure"),
        ("No, it is 5.", "no,"),
        ("On second thought, it is 7.", "on second thought"),
        ("Alternatively, use x.", "alternatively"),
        ("Waiter, the bill.", None),
        ("I can't wait.", None),
        ("No one came.", None),
        ("Now we go on.", None),
        ("The river leads to Quill.", None),
        ("Maybeline is a name.", None),
        ("", None),
    ],
)
def test_markers_stand_at_the_start_of_a_sentence(sentence: str, marker: str | None) -> None:
    assert marker_set().find(sentence) == marker


def test_the_longest_marker_wins_and_offsets_are_respected() -> None:
    assert marker_set(("no", "no wait", "no wait a minute")).find("No wait a minute!") == "no wait a minute"
    assert marker_set().find("Good. Wait, no.", 6) == "wait"
    assert marker_set().find("Let me check", 0, 6) is None


def test_any_list_of_phrases_can_be_used() -> None:
    assert marker_set(()).find("Wait") is None
    assert marker_set(("a", "i think")).find("A moment.") == "a"
    assert marker_set(("i think",)).find("I\tthink so.") == "i think"
    assert marker_set(("(aside",)).find("(aside) x") == "(aside"


def test_the_quick_test_never_hides_a_marker() -> None:
    found = marker_set()
    for marker in DEFAULT_MARKERS:
        for spelling in (
            marker,
            marker.capitalize(),
            marker.upper(),
            f"- {marker}",
            marker.replace("'", "’"),
        ):
            assert found.find(spelling + " x") is not None, spelling


@pytest.mark.parametrize(
    ("sentence", "category"),
    [
        ("I will take the road first, then the river.", Category.PLAN_GENERATION),
        ("The river from Oslen leads to Tavik.", Category.FACT_RETRIEVAL),
        ("Wait, that is wrong.", Category.UNCERTAINTY_MANAGEMENT),
        ("Let me double-check.", Category.SELF_CHECKING),
        ("Therefore, x is 7.", Category.RESULT_CONSOLIDATION),
        ("So the trip ends in Quill, which is option C.", Category.FINAL_ANSWER_EMISSION),
        ("Okay, so I have this problem about squares.", Category.PROBLEM_SETUP),
        ("3 * 29524 = 88572", Category.ACTIVE_COMPUTATION),
        ("", Category.ACTIVE_COMPUTATION),
    ],
)
def test_taxonomy(sentence: str, category: Category) -> None:
    assert categorize(sentence) is category


def test_taxonomy_is_linear_on_hostile_text() -> None:
    for unit in ("go with ", "the ", "*", "so ", "is "):
        begin = time.perf_counter()
        categorize((unit * 40_000)[:40_000])
        assert time.perf_counter() - begin < 1.5


def test_text_imports_without_torch() -> None:
    modules = "azeotrope.text.segment, azeotrope.text.markers, azeotrope.text.taxonomy"
    check = f"import sys, {modules}, azeotrope.defenses.traceguard; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
