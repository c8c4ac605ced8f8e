"""What an API shows of the next-token distributions along one text.

Shapes: T tokens of a completion, V vocabulary, K shown tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from azeotrope.core.access import Access
from azeotrope.maths import truncated


@dataclass(frozen=True, slots=True)
class Exposure:
    """Log-probabilities at every token of a completion, `tokens` being the teacher's ids of it.

    `known_TK` are those of the tokens `ids_TK`; without `ids_TK` they are all V in order. −inf: an empty slot.
    """

    tokens: tuple[int, ...]
    known_TK: Tensor
    ids_TK: Tensor | None = None

    @property
    def access(self) -> Access:
        """The level that sees this."""
        if self.known_TK.shape[-1] == 0:
            return Access.TEXT
        return Access.FULL_LOGITS if self.ids_TK is None else Access.TOPK_LOGPROBS

    def top(self, k: int) -> Exposure:
        """Only the k largest a token. Raises ConfigError for k < 1; more than there are is all there are."""
        if self.known_TK.shape[-1] == 0 and k >= 1:
            return self
        known_TK, index_TK = truncated.top_k(self.known_TK, min(k, self.known_TK.shape[-1]))
        ids_TK = index_TK if self.ids_TK is None else self.ids_TK.gather(-1, index_TK)
        return Exposure(self.tokens, known_TK, ids_TK)

    def rounded(self, step: float) -> Exposure:
        """Log-probabilities rounded to multiples of `step` nats; 0 leaves them. Raises ConfigError below 0."""
        return replace(self, known_TK=truncated.rounded(self.known_TK, step))

    def mixed(self, share: float) -> Exposure:
        """Those of (1 − share)·p + share·e_y, y being the token of the text; at share 1 nothing is left."""
        if share == 1.0:
            return self.nothing()
        said_T1 = torch.tensor(self.tokens, dtype=torch.long)[:, None]
        ids_TK = torch.arange(self.known_TK.shape[1])[None] if self.ids_TK is None else self.ids_TK
        said = math.log(share) if share else -math.inf
        label_TK = torch.where(ids_TK == said_T1, said, -math.inf).to(self.known_TK)
        return replace(self, known_TK=torch.logaddexp(self.known_TK + math.log1p(-share), label_TK))

    def nothing(self) -> Exposure:
        """The text alone."""
        none_TK = self.known_TK[:, :0]
        return Exposure(self.tokens, none_TK, none_TK.long())

    def first(self, n: int) -> Exposure:
        """Only the first n tokens."""
        ids_TK = None if self.ids_TK is None else self.ids_TK[:n]
        return Exposure(self.tokens[:n], self.known_TK[:n], ids_TK)
