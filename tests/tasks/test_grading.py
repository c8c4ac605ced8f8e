from __future__ import annotations

import threading
import time

import pytest

from azeotrope.core.errors import MissingError
from azeotrope.core.types import THINK_CLOSE
from azeotrope.tasks import grading
from azeotrope.tasks.grading import (
    FORCED_HEADER,
    extract_answer,
    extract_choice,
    force_answer,
    grade_choice,
    grade_math,
    last_boxed,
    plain_number,
    same_answer,
)

CAPITALS = ["London", "Paris", "Rome", "Oslo"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{5}", "5"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{5} and \boxed{6", "5"),
        (r"\boxed{6 never closed, \boxed{7}", "7"),
        (r"{ \boxed{5} } } {", "5"),
        (r"\fbox{8}", "8"),
        (r"\boxed {9}", "9"),
        (r"so $\boxed 9$", "9"),
        (r"a \\ \boxed{3}", "3"),
        (r"a \\\boxed{3}", "3"),
        (r"\\boxed{4}", "4"),
        (r"\boxed{x = \boxed{5}}", "5"),
        (r"\boxed{\text{(C)}}", r"\text{(C)}"),
        ("\\boxed{1\n2}", "1\n2"),
        (r"\boxed", None),
        (r"\boxed{", None),
        ("", None),
        ("boxed{5}", None),
    ],
)
def test_last_boxed(text: str, expected: str | None) -> None:
    assert last_boxed(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 200_000,
        "\\boxed{" * 100_000 + "}" * 100_000,
        "\\" * 1_000_000 + "boxed",
        "\\boxed" + " " * 1_000_000,
        "answer is " * 100_000,
        "answer:\n" * 100_000,
        "####\n" * 100_000,
        "{" * 500_000 + "box",
    ],
)
def test_extraction_is_linear(text: str) -> None:
    started = time.perf_counter()
    extract_answer(text)
    extract_choice(text, CAPITALS)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("So the answer is 42.", "42"),
        ("The answer is $42$. I am sure.", "42"),
        ("The answer is $42.", "$42"),
        ("The answer is 3.5, which is fine.", "3.5"),
        ("The answer is (3, 4).", "(3, 4)"),
        ("**Answer:** 42", "42"),
        ("Final answer: **42**", "42"),
        ("The answer is:\n\\(x+1\\)", "x+1"),
        ("It was 3\n#### 42", "42"),
        ("#### 1,250\n", "1,250"),
        ("The answer is 1. Wait, the answer is 2.", "2"),
        ("#### Step 2\nThe answer is 7", "7"),
        ("The answer is 7 because 3+4=7", "7"),
        (f"\\boxed{{1}}{THINK_CLOSE} The answer is 2", "1"),
        (f"\\boxed{{1}}{THINK_CLOSE} \\boxed{{2}}", "2"),
        ("nothing here", None),
        ("The answer is", None),
        ("\\boxed{} the answer is 3", "3"),
    ],
)
def test_extract_answer(text: str, expected: str | None) -> None:
    assert extract_answer(text) == expected


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\frac{1}{2}", "1/2"),
        (r"\frac{1}{2}", "0.5"),
        (r"\frac12", r"\dfrac{2}{4}"),
        (r"\frac{3}{2}", r"1\frac12"),
        ("(0,1]", "(0, 1]"),
        ("(3,4)", r"\left(3, 4\right)"),
        ("1,-2", r"\{-2, 1\}"),
        ("1000", "1,000"),
        ("1000", r"1{,}000"),
        ("1000", r"1,\!000"),
        ("1000", r"1\,000"),
        ("1000000", "1,000,000.00"),
        ("18", r"\$18"),
        ("18", "$18"),
        ("18", "18 dollars"),
        ("18", r"18\text{ cm}^2"),
        ("18", "18 miles per hour"),
        ("18", "18 km/h"),
        ("90", r"90^\circ"),
        ("5", "x = 5"),
        ("-5", "\N{MINUS SIGN}5"),
        ("5", "+5."),
        ("20", "20%"),
        ("20", "20 percent"),
        ("4", "2^2"),
        ("p - q", "-q+p"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"),
    ],
)
def test_same(gold: str, answer: str) -> None:
    assert same_answer(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\frac{1}{2}", r"\frac{1}{3}"),
        (r"\frac{1}{3}", "0.33"),
        ("(0,1]", "[0,1]"),
        ("(3,4)", "(4,3)"),
        ("-5", "5"),
        ("11/2", "1 1/2"),
        ("3", "3 dozen"),
        ("3", "3/x"),
        ("3", "3 x"),
        ("3", "3 or 4"),
        ("3", "3 million"),
        ("12", "12 apples and 3 pears"),
        ("18", "18 and 19"),
        ("1,2", "1"),
        ("1000", "1,00"),
        ("10", "9.9999999"),
        ("5", ""),
        ("5", "."),
        ("x+1", "x"),
        (r"\text{Evelyn}", "Eve"),
    ],
)
def test_different(gold: str, answer: str) -> None:
    assert not same_answer(gold, answer)


@pytest.mark.parametrize(
    "answer",
    [
        "9" * 5000,
        "9" * 999,
        "\\frac{" * 150,
        "\\" * 900,
        "\x00",
        "\ud800",
        "{{{}}",
        '__import__("os").abort()',
        "$" * 100,
        "\\int_0^\\infty",
        "\n1\n0\n",
    ],
)
def test_hostile_answers_are_wrong_and_never_raise(answer: str) -> None:
    assert not same_answer("5", answer)
    assert not grade_math("5", f"\\boxed{{{answer}}}").correct


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["9^{9^{9^9}}", "100000000!", "(x+1)^{100000}", "(" * 400 + "5" + ")" * 400])
def test_endless_answers_end(answer: str) -> None:
    started = time.perf_counter()
    assert not same_answer("5", answer)
    assert time.perf_counter() - started < 30
    assert same_answer("5", "x = 5")


def test_a_helper_that_takes_too_long_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert same_answer("6", "x = 6")
    monkeypatch.setattr(grading, "_LIMIT_S", 0.2)
    assert not same_answer("5", "8^{8^{8^8}}")
    monkeypatch.undo()
    assert same_answer("7", "x = 7")


def test_a_helper_that_died_is_replaced() -> None:
    assert same_answer("8", "x = 8")
    process = grading._helper._process
    assert process is not None
    process.kill()
    assert same_answer("9", "x = 9")


def test_grading_works_outside_the_main_thread() -> None:
    found: dict[int, bool] = {}

    def grade(number: int) -> None:
        found[number] = grade_math(str(number), f"\\boxed{{y = {number}}}").correct

    threads = [threading.Thread(target=grade, args=(number,)) for number in range(20, 28)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(20, 28), True)


def test_without_math_verify_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    grading._verified.cache_clear()
    monkeypatch.setattr(grading, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"math-verify.*azeotrope\[lab\]"):
        same_answer("x+1", "1+x")
    assert same_answer("5", "5 dollars"), "plain numbers need no package"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,250.50", 1250.5),
        ("-3", -3),
        (".5", 0.5),
        ("007", 7),
        ("12 kg", 12),
        ("3x", None),
        ("", None),
        ("-", None),
    ],
)
def test_plain_number(text: str, value: float | None) -> None:
    assert plain_number(text) == value


def test_a_forced_answer_counts_before_or_after_the_forcing() -> None:
    unfinished = "Let me think about 6 times 3"
    forced = force_answer(unfinished)
    assert forced == f"{unfinished}\n{THINK_CLOSE}{FORCED_HEADER}"
    assert force_answer(f"a{THINK_CLOSE} b") == f"a{THINK_CLOSE} b{FORCED_HEADER}"
    assert grade_math("18", forced + "18}\n\\]").correct
    assert not grade_math("18", forced + "17}\n\\]").correct
    assert grade_math("18", force_answer("So \\boxed{18}") + "17}\\]").correct
    assert grade_math("18", forced + "17}\\]").answer == "17"
    assert not grade_math("18", forced).correct


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"\boxed{B}", "B"),
        (r"\boxed{b}", "B"),
        (r"\boxed{(B)}", "B"),
        (r"\boxed{\text{B}}", "B"),
        (r"\boxed{\textbf{(B)}}", "B"),
        (r"\boxed{\text{B. Paris}}", "B"),
        (r"\boxed{B) Paris}", "B"),
        (r"\boxed{Paris}", "B"),
        (r"\boxed{Option B}", "B"),
        ("The answer is B.", "B"),
        ("The answer is (b).", "B"),
        ("The answer is **B**", "B"),
        ("Answer: B because it is Paris", "B"),
        ("The answer is A. No, the answer is B.", "B"),
        ("I think\n\n(B)", "B"),
        ("B", "B"),
        ("The answer is A", "A"),
        ("The answer is A train", None),
        ("The answer is a capital", None),
        ("The answer is Every", None),
        (r"\boxed{E}", None),
        (r"\boxed{A, B}", None),
        (r"\boxed{Berlin}", None),
        ("", None),
        ("No option fits.", None),
    ],
)
def test_extract_choice(text: str, letter: str | None) -> None:
    assert extract_choice(text, CAPITALS) == letter


def test_grade_choice() -> None:
    assert grade_choice("B", r"\boxed{B}", CAPITALS).correct
    wrong = grade_choice("B", r"\boxed{C}", CAPITALS)
    assert (wrong.correct, wrong.answer) == (False, "C")
    assert grade_choice("B", "hm", CAPITALS).answer is None
    assert grade_choice("B", force_answer("hm") + "B}", CAPITALS).correct
    assert extract_choice(r"\boxed{Paris}", ["Paris", "paris"]) is None, "two options with the same text"
