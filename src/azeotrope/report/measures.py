"""What each measure is called, how it is formatted and what it means in plain words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

UNDISTILLED = "undistilled"
TEACHER_UTILITIES = ("teacher_accuracy", "trace_validity")
LEAKAGE = ("student_accuracy", "recall_hidden", "s_minus_t")


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure as a reader meets it. `form` is "share", "points" (a difference of shares) or "number"."""

    name: str
    label: str
    form: str
    meaning: str


MEASURES = (
    Measure(
        "teacher_accuracy",
        "teacher accuracy",
        "share",
        "Share of test problems the teacher still answers correctly through the defense.",
    ),
    Measure(
        "trace_validity",
        "trace validity",
        "share",
        "How much of a released trace still follows: each step is checked against the problem and the "
        "steps kept before it. It catches defenses that spare the answer and spoil the reasoning.",
    ),
    Measure(
        "wrong_statements",
        "wrong statements",
        "number",
        "False statements in a released trace, on average per trace.",
    ),
    Measure("trace_tokens", "trace length", "number", "Tokens in a released trace, on average."),
    Measure(
        "teacher_finished",
        "teacher finished",
        "share",
        "Share of the teacher's outputs that end by themselves rather than at the token limit.",
    ),
    Measure(
        "student_accuracy",
        "student accuracy",
        "share",
        "Share of test problems the student answers correctly after it was trained on the release.",
    ),
    Measure(
        "student_accuracy_finished",
        "student accuracy, finished only",
        "share",
        "Student accuracy among the outputs that end by themselves, so that run-on text is not mistaken "
        "for protection.",
    ),
    Measure(
        "student_finished",
        "student finished",
        "share",
        "Share of the student's outputs that end by themselves rather than at the token limit.",
    ),
    Measure(
        "recall_hidden",
        "recall of hidden facts",
        "share",
        "Share of facts the student could have learned only from the teacher's traces and can repeat.",
    ),
    Measure(
        "s_minus_t",
        "student minus teacher",
        "points",
        "Student accuracy minus teacher accuracy for the same arm: above zero, the copy beats what "
        "honest users are served.",
    ),
    Measure(
        "gain",
        "gain over undistilled",
        "points",
        "Student accuracy after the attack minus the same student's accuracy before it.",
    ),
    Measure(
        "clean_nll",
        "loss on clean traces",
        "number",
        "The student's loss on undefended traces, in nats per token. It mixes style with skill and is "
        "not a measure of leakage.",
    ),
)

TERMS = (
    ("Arm", "One defense at one strength. Strength 0 is the undefended teacher, bit for bit."),
    (
        "Control",
        "A change that costs honest users as much as a defense but is not aimed at a distiller, such as "
        "a higher temperature. A defense has to beat its controls, not the undefended teacher.",
    ),
    ("Attack", "How the thief turns the released text into a student."),
    ("Worst case", "The most successful of the attacks and students that were run; others may exist."),
    ("Undistilled", "The same student before it saw any of the teacher's output."),
    (
        "Equal cost",
        "Methods are compared where they cost honest users the same measured drop, never at the same "
        "value of a dial.",
    ),
    (
        "Not separable",
        "The interval of a difference contains zero. That is not evidence that there is no difference.",
    ),
    (
        "Not reached",
        "At every strength that was run, the method or its reference cost less than the drop asked for, or "
        "it got there in too few resamples to say.",
    ),
    ("Nat", "Unit of information with base e. 0.69 nats are one bit."),
)

RECOVERY = (
    "Recovery",
    "The share of what the passive student lost to a defense that an adaptive attack brings back: 0 % is what "
    "fine-tuning on the defended release gives, 100 % what it gives on the undefended one.",
)

_BY_NAME = {measure.name: measure for measure in MEASURES}


def measure(name: str) -> Measure:
    """Return the measure called `name`; an unknown one is shown as a plain number under its own name."""
    return _BY_NAME.get(name) or Measure(name, name.replace("_", " "), "number", "")


def table(names: list[str]) -> dict[str, dict[str, Any]]:
    """Return the measures in `names` as plain dictionaries for the page."""
    return {name: asdict(measure(name)) for name in names}


def points(value: float, signed: bool = True) -> str:
    """Format a difference of shares in percentage points, e.g. ``−6.1``."""
    text = f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
    return ("0.0" if text in ("+0.0", "-0.0") else text).replace("-", "−")


def show(name: str, value: float) -> str:
    """Format one value of the measure `name` for running text."""
    form = measure(name).form
    if form == "share":
        return f"{100 * value:.1f} %"
    return f"{points(value)} points" if form == "points" else f"{value:.3g}".replace("-", "−")


def seeds(count: int) -> str:
    """Count student seeds in words."""
    return f"{count} seed" if count == 1 else f"{count} seeds"


def show_p(p: float | None) -> str:
    """Format a p value: ``p < .001`` or ``p = .031``; empty when there is none."""
    if p is None:
        return ""
    if p < 0.001:
        return "p < .001"
    return f"p = {p:.3f}".replace("0.", ".", 1) if p < 0.9995 else "p = 1"
