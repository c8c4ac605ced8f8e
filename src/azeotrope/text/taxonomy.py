"""The eight functions of a reasoning sentence (Thought Anchors, arXiv 2506.19143), by keyword.

The paper had a language model label each sentence; TraceGuard (arXiv 2604.23238, App. D) tags by keyword and
calls what matches nothing active computation. The keywords are not published; these were written from the
paper's definitions. They are a fast approximation: `benchmarks/segmentation.py` prints how far they agree
with the published labels.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final


class Category(StrEnum):
    """What a sentence does in a trace."""

    PROBLEM_SETUP = "problem_setup"
    PLAN_GENERATION = "plan_generation"
    FACT_RETRIEVAL = "fact_retrieval"
    ACTIVE_COMPUTATION = "active_computation"
    RESULT_CONSOLIDATION = "result_consolidation"
    UNCERTAINTY_MANAGEMENT = "uncertainty_management"
    FINAL_ANSWER_EMISSION = "final_answer_emission"
    SELF_CHECKING = "self_checking"


# First match wins. Every gap is bounded: a category costs time linear in the sentence.
_RULES: Final[tuple[tuple[Category, tuple[str, ...]], ...]] = (
    (
        Category.FINAL_ANSWER_EMISSION,
        (
            r"\\boxed|\bfinal answer\b|^\W*done\b",
            r"\b(?:the|my) (?:correct )?answer (?:is|should be|must be)\b",
            r"\b(?:trip|journey) ends\b|\bgo with.{0,40}?\banswer\b",
        ),
    ),
    (
        Category.SELF_CHECKING,
        (
            r"\b(?:double|re)[- ]?check|\bverif(?:y|ied|ying)\b|\b(?:let me|let's|to) (?:just )?check\b",
            r"\b(?:make|making|be) sure\b|\bchecks? out\b|\bconfirm|^\W*(?:yes|yep|yeah|correct)\b",
            r"\b(?:that|this|it)(?:'s| is| seems| looks) (?:right|correct|consistent|fine)\b",
        ),
    ),
    (
        Category.UNCERTAINTY_MANAGEMENT,
        (
            r"^\W*(?:but )?(?:wait|hmm+|hold on|oh|oops|actually|no)\b|\bon second thought\b",
            r"\bnot (?:sure|right|correct)\b|\bconfus|\bmistake\b|\bwrong\b|\bunclear\b|\bovercomplicat",
            r"\bi might\b|\bmight be (?:wrong|missing)\b|\bi need to recall\b",
            r"\bdoesn't (?:add|make|seem)|\b(?:seems|is) (?:contradict|inconsist)",
        ),
    ),
    (
        Category.PROBLEM_SETUP,
        (
            r"^\W*(?:okay|ok|alright|first)?,? ?(?:so )?i(?:'ve got| have| am given|'m given|'m trying to)"
            r" (?:this|a|here|help|solve|to (?:solve|figure|find|compute))",
            r"\bthe (?:problem|question) (?:says|asks|states|is asking|gives|wants)\b",
            r"\bwe(?:'re| are) given\b|\bthey (?:want|ask)\b",
            r"\bi need to (?:find|figure out|determine) (?:the|out|how|what|which)\b",
        ),
    ),
    (
        Category.PLAN_GENERATION,
        (
            r"\blet(?:'s| me| us)\b|\balternatively\b|\banother (?:way|approach|idea)|\bplan\b",
            r"\b(?:maybe|perhaps) (?:i|we|it|there|using|the)\b",
            r"\bi(?:'ll| will| should| can| could| need to| have to| want to)\b",
            r"\bwe (?:should|can|could|need to|have to)\b|\b(?:first|next|now|then|finally),? (?:i|we)\b",
            r"\bstep by step\b|\bthe (?:next|first|final) step\b",
        ),
    ),
    (
        Category.RESULT_CONSOLIDATION,
        (
            r"^\W*(?:therefore|thus|hence|in summary|overall|to summarize|in conclusion|putting it)\b",
            r"^\W*so,? (?:yes|that|the|this|it|we|all|in|now|both|each|there)\b|\b(?:same as|matches)\b",
        ),
    ),
    (
        Category.FACT_RETRIEVAL,
        (
            r"\bi (?:remember|know)\b|\brecall\b|\b(?:since|means|represents|there are)\b",
            r"\b(?:formula|theorem|definition|identity|rule|law|property|principle)\b",
            r"\bis (?:defined|called|known|given)\b|\bgiven (?:that|by)\b",
            r"\b(?:consists of|corresponds to|leads to)\b|^\W*the\b(?!.{0,200}=)",
        ),
    ),
)
_COMPILED: Final = tuple((category, re.compile("|".join(rules)).search) for category, rules in _RULES)


def categorize(sentence: str) -> Category:
    """Return the function of `sentence`; what matches no keyword is active computation."""
    plain = sentence.lower().replace("’", "'")  # lowering once is faster than matching without case
    for category, search in _COMPILED:
        if search(plain):
            return category
    return Category.ACTIVE_COMPUTATION
