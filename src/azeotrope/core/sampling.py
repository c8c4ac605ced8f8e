"""Decoding settings, and the one order in which logits are transformed."""

from __future__ import annotations

from pydantic import Field

from azeotrope.core.methods import Settings

COLDEST = 1e-4  # below it a draw is the likeliest token, and logits over it could overflow
LOGIT_ORDER = ("repetition_penalty", "temperature", "defense", "top_k", "top_p", "sample")


class Sampling(Settings):
    """How tokens are drawn. `temperature` 0 (below `COLDEST`) is greedy (after the defense); `top_k` 0 and
    `top_p` 1 are off.

    The order of operations is `LOGIT_ORDER`, for defended and undefended decoding alike.
    """

    temperature: float = Field(default=0.6, ge=0)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0)
    max_new_tokens: int | None = Field(default=None, ge=1)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature < COLDEST

    @property
    def divisor(self) -> float:
        """What logits are divided by: the temperature, or 1 where it does not matter."""
        return 1.0 if self.greedy else self.temperature


GREEDY = Sampling(temperature=0.0)
