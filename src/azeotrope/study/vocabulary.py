"""Names that the tables of a run share with whoever reads them. Imports nothing."""

from __future__ import annotations

from typing import Final

UNDEFENDED: Final = "none"  # the arm without a defense
UNDISTILLED: Final = "undistilled"  # the `attack` of students before any
PASSIVE: Final = "sft"  # kind of the attack that takes the release as it is
LENGTH: Final = "length"
UTILITIES: Final = ("teacher_accuracy", "trace_validity", "reader_accuracy", "grounding", LENGTH)
LEAKAGES: Final = ("student_accuracy", "recall_hidden")
CONTROL_ATTACKS: Final = frozenset(
    {"clean_matched", "random_drop", "random_infill", "random_resample", "random_weights", "strip_random"}
)


def is_passive(attack: str) -> bool:
    """Whether a label names fine-tuning on the text as released, at whatever settings.

    >>> is_passive("sft(epochs=3)"), is_passive("sft #1f0c"), is_passive("filtered_sft")
    (True, True, False)
    """
    return _kind(attack) == PASSIVE


def is_control(attack: str) -> bool:
    """Whether a label names a control of an attack: it is shown beside it, and never the worst case.

    >>> is_control("random_drop(share=0.1)"), is_control("filtered_sft")
    (True, False)
    """
    return _kind(attack) in CONTROL_ATTACKS


def _kind(label: str) -> str:
    return label.partition("(")[0].partition("#")[0].strip()
