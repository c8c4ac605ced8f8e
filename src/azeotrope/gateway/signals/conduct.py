"""Signal E: suspicious conduct, one number per request, and bets that its mean is not what benign traffic has.

x_t in [0, 1] is the sum of the weights of a request's flags, at most 1 (spec 4.2 E). Each weight says how rarely
an ordinary caller does that: asking for log-probabilities alone is nothing, asking for the hidden reasoning is
nearly all. H0: E[x_t | past] ≤ p0, with p0 from a calibration with a margin (`fit`). The bets and their guarantees
are those of `azeotrope.maths.evalues`: a key whose conduct stays below p0 ever reaches the e-process's alarm with
probability at most `false_alarm`, and the e-detector's not before `run_length` requests on average. Where p0 is
wrong for a key, so is the guarantee.

The wording is matched on the text with white space, compatibility forms and invisible characters normalized, in
several languages. A paraphrase passes: that is a limit of word lists, and why conduct is one signal of six.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from azeotrope.gateway.signals.prompts import CHARACTERS, WORDS
from azeotrope.gateway.signals.seen import Flag

WEIGHTS: Final = {
    Flag.ELICITS: 0.9,
    Flag.STEPS: 0.05,
    Flag.LOGPROBS: 0.1,
    Flag.BIAS: 0.4,
    Flag.MANY: 0.1,
    Flag.RESAMPLE: 0.1,
    Flag.SWEEP: 0.3,
    Flag.BARE: 0.05,
    Flag.CANARY: 1.0,
}
_ALL: Final = sum(WEIGHTS)
_SUSPICION: Final = tuple(
    min(1.0, sum(weight for flag, weight in WEIGHTS.items() if flags & flag)) for flags in range(_ALL + 1)
)

_ELICITS: Final = (
    "chain of thought", "chain-of-thought", "internal reasoning", "hidden reasoning", "raw reasoning",
    "reasoning trace", "thinking trace", "internal monologue", "inner monologue", "internal thoughts",
    "internal thinking", "full reasoning process", "complete reasoning process", "reasoning verbatim",
    "every intermediate step", "every step of your reasoning", "all intermediate reasoning", "<think>",
    "<thinking>", "reasoning behind a completed response", "reconstruct the reasoning",
    "do not summarize your reasoning",
    "思维链", "内部推理", "完整的推理", "推理过程", "思考过程", "思考の過程", "推論過程", "思考の連鎖",
    "추론 과정", "사고 과정", "cadena de pensamiento", "razonamiento interno", "chaîne de pensée",
    "raisonnement interne", "gedankenkette", "interne überlegung", "internen überlegungen",
    "цепочку рассуждений", "внутренние рассуждения",
    "ход рассуждений", "cadeia de pensamento", "raciocínio interno",
)  # fmt: skip
_STEPS: Final = (
    "step by step", "step-by-step", "show your work", "show your reasoning", "explain your reasoning",
    "think carefully", "schritt für schritt", "paso a paso", "étape par étape", "passo a passo", "шаг за шагом",
    "一步一步", "逐步", "ステップバイステップ", "단계별",
)  # fmt: skip
_INVISIBLE: Final = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))


def suspicion(flags: int) -> float:
    """Return x_t of a request with these flags; unknown flags are ignored.

    >>> suspicion(0), suspicion(Flag.ELICITS | Flag.LOGPROBS)
    (0.0, 1.0)
    """
    return _SUSPICION[flags & _ALL]


def wording(prompt: str) -> Flag:
    """Return the flags that the first words of a prompt carry."""
    text = prompt[:CHARACTERS].lower()
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_INVISIBLE))[: 2 * CHARACTERS].lower()
    text = " ".join(text.split()[:WORDS])
    if any(phrase in text for phrase in _ELICITS):
        return Flag.ELICITS
    return Flag.STEPS if any(phrase in text for phrase in _STEPS) else Flag(0)
