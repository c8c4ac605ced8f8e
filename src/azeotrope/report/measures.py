"""What each measure is called, how it is formatted and what it means in plain words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from azeotrope.study.vocabulary import LENGTH, UTILITIES

TEACHER_UTILITIES = tuple(name for name in UTILITIES if name != LENGTH)  # shares, of which a drop is in points
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
        "reader_accuracy",
        "reader accuracy",
        "share",
        "Share of problems that a reader model, which is not the teacher, answers correctly when it continues "
        "from the start of a released trace. It falls where a trace misleads whoever relies on it.",
    ),
    Measure(
        "grounding",
        "grounding",
        "share",
        "Share of sentences in a released trace that refer only to what the problem or the kept part of the "
        "trace states: one minus the share of dangling references.",
    ),
    Measure(
        "length",
        "change of length",
        "number",
        "Relative change in the tokens of a released trace, in either direction: a longer one costs the reader "
        "time, a shorter one steps.",
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
        "teacher_horizon_accuracy",
        "teacher accuracy beyond the horizon",
        "share",
        "Share of problems longer than any in the release that the teacher answers correctly.",
    ),
    Measure(
        "teacher_refusal_consistency",
        "teacher refusal consistency",
        "share",
        "Share of restricted requests that the teacher refuses in every wording.",
    ),
    Measure(
        "teacher_over_refusal",
        "teacher over-refusal",
        "share",
        "Share of ordinary requests that the teacher refuses.",
    ),
    Measure(
        "teacher_answer_stability",
        "teacher answer stability",
        "share",
        "Share of problems whose answer by the teacher stays the same under another wording.",
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
        "recall_any",
        "recall at any position",
        "share",
        "Recall of hidden facts wherever in the teacher's traces they were stated.",
    ),
    Measure(
        "recall_statement",
        "recall, first statement",
        "share",
        "Recall of hidden facts that the teacher's traces give in a first statement.",
    ),
    Measure(
        "recall_second",
        "recall, second step",
        "share",
        "Recall of hidden facts that the teacher's traces give in a second step.",
    ),
    Measure(
        "recall_corrected",
        "recall, after a correction",
        "share",
        "Recall of hidden facts that the teacher's traces give after a wrong statement was rejected.",
    ),
    Measure(
        "horizon_accuracy",
        "accuracy beyond the horizon",
        "share",
        "Share of problems longer than any in the release that the student answers correctly.",
    ),
    Measure(
        "refusal_consistency",
        "refusal consistency",
        "share",
        "Share of restricted requests that the student refuses in every wording.",
    ),
    Measure(
        "over_refusal",
        "over-refusal",
        "share",
        "Share of ordinary requests that the student refuses.",
    ),
    Measure(
        "answer_stability",
        "answer stability",
        "share",
        "Share of problems whose answer by the student stays the same under another wording.",
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
    Measure(
        "auroc",
        "AUROC",
        "number",
        "How often a defended trace gets a higher score from a detector than a clean one; ties count half. "
        "0.5 is guessing, 1 is always told apart.",
    ),
    Measure(
        "tpr_at_fpr",
        "TPR at fixed FPR",
        "share",
        "Share of defended traces above the threshold that the detector set for its rate of false alarms, which "
        "is 1 % unless its name says otherwise.",
    ),
    Measure(
        "fpr",
        "FPR as measured",
        "share",
        "Share of clean traces above that threshold. Where it is far from the rate that was asked for, the "
        "hits are not to be trusted.",
    ),
    Measure(
        "token_delta",
        "token delta",
        "share",
        "Relative change in the number of words against clean traces, in percent of the clean number.",
    ),
    Measure(
        "tfidf_cosine",
        "TF-IDF cosine",
        "number",
        "How alike two versions of a problem's trace read, word for word; two clean samples are not identical "
        "either, so it is read beside the control.",
    ),
    Measure(
        "marker_rate_defended",
        "marker rate, defended",
        "number",
        "Sentences per 100 that open with a branching marker such as “Wait” in defended traces.",
    ),
    Measure(
        "marker_rate_clean",
        "marker rate, clean",
        "number",
        "Sentences per 100 that open with a branching marker such as “Wait” in clean traces.",
    ),
    Measure(
        "marker_rate_difference",
        "marker rate, difference",
        "number",
        "Marker rate of defended traces minus that of clean ones, per 100 sentences.",
    ),
    Measure(
        "cosine",
        "cosine of gradients",
        "number",
        "Cosine of the gradient that a surrogate student gets from the edited logits with the one that it would "
        "have had: 1 teaches the same, 0 something unrelated, −1 the opposite.",
    ),
    Measure(
        "divergence",
        "divergence, trained",
        "number",
        "What training was to raise or lower, in nats: of the teacher from proxies while it reasons, or of its "
        "distributions from the mean of their class.",
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
