"""One model walking token by token over a batch of rows, with its own cache.

Shapes: B rows, T tokens, C ≥ T cache slots, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.func import functional_call

from azeotrope.models.attention import stepping
from azeotrope.models.cache import RoomyCache, capacity
from azeotrope.models.lm import LM


@dataclass(frozen=True, slots=True)
class StepOut:
    """The last position: `logits_BV` and, if asked for, `hidden_BD` (the input of the LM head)."""

    logits_BV: Tensor
    hidden_BD: Tensor | None


class Stepper:
    """Runs `lm` over growing rows: `prefill` once, then `advance` with one token a row.

    Rows are left-padded; positions count from each row's first real token. `parameters` replaces the
    model's own weights for the walk (perturbed copies, dual numbers) without copying the module; `head_VD`
    the LM head's, for models that are plain (see `is_plain`).
    """

    def __init__(
        self,
        lm: LM,
        *,
        hidden: bool = False,
        logits: bool = True,
        parameters: Mapping[str, Tensor] | None = None,
        head_VD: Tensor | None = None,
    ) -> None:
        self.lm = lm
        self.want_hidden = hidden
        self.want_logits = logits
        self.parameters = parameters
        self.head_VD = head_VD
        self.cache = RoomyCache()
        self.mask_BC = torch.empty(0)  # as wide as the cache; the slots not yet used are closed
        self.positions_B1 = torch.empty(0)
        self.length = 0
        self._captured: Tensor | None = None

    def prefill(self, prompts: Sequence[Sequence[int]]) -> StepOut:
        """Read the prompts (token ids, each non-empty); return the outputs after the last prompt token."""
        # One column of padding at least before a single token: without any, transformers would drop the mask
        # of a one-token query, and with it the unused slots' exclusion.
        longest = max(2, *(len(p) for p in prompts))
        ids_BT = torch.full((len(prompts), longest), self.lm.pad, dtype=torch.long)
        mask_BC = torch.zeros((len(prompts), capacity(longest)), dtype=torch.long)
        for i, prompt in enumerate(prompts):
            ids_BT[i, longest - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
            mask_BC[i, longest - len(prompt) : longest] = 1
        device = self.lm.model.device
        self.mask_BC, self.length = mask_BC.to(device), longest
        positions_BT = (self.mask_BC[:, :longest].cumsum(-1) - 1).clamp(min=0)
        self.positions_B1 = positions_BT[:, -1:]
        return self._forward(ids_BT.to(device), positions_BT)

    def advance(self, tokens_B: Tensor) -> StepOut:
        """Append one token to every row; return the outputs after it."""
        if self.length == self.mask_BC.shape[1]:
            more = capacity(self.length + 1) - self.length
            self.mask_BC = torch.nn.functional.pad(self.mask_BC, (0, more))
        self.mask_BC[:, self.length] = 1
        self.length += 1
        self.positions_B1 = self.positions_B1 + 1
        with stepping(self.lm.model):
            return self._forward(tokens_B[:, None], self.positions_B1)

    def select(self, rows: Tensor) -> None:
        """Keep only the given rows (int64 [B'])."""
        self.mask_BC = self.mask_BC.index_select(0, rows)
        self.positions_B1 = self.positions_B1.index_select(0, rows)
        self.cache.select(rows)

    @property
    def span(self) -> tuple[int, int]:
        """The columns in which any row has a token: the first, and the one after the last."""
        return int(self.mask_BC.argmax(-1).min()), self.length

    def join(self, other: Stepper) -> None:
        """Take the rows of another walk of the same model behind one's own; it must not be used afterwards.

        The shorter walk is padded on the left; columns in which no row has a token are left out.
        """
        spans = [self.span, other.span]
        self.length = max(stop - start for start, stop in spans)
        room = capacity(self.length)
        masks = [
            torch.nn.functional.pad(one.mask_BC[:, start:stop], (self.length - (stop - start), room - self.length))
            for one, (start, stop) in zip((self, other), spans, strict=True)
        ]
        self.mask_BC = torch.cat(masks)
        self.positions_B1 = torch.cat([self.positions_B1, other.positions_B1])
        self.cache.join(other.cache, spans[0], spans[1], self.length)
        other.close()

    def close(self) -> None:
        """Release the cache; the stepper must not be used afterwards."""
        self.cache.close()

    def _forward(self, ids_BT: Tensor, positions_BT: Tensor) -> StepOut:
        kwargs: dict[str, Any] = {
            "input_ids": ids_BT,
            "attention_mask": self.mask_BC,
            "past_key_values": self.cache,
            "use_cache": True,
        }
        if "position_ids" in self.lm.forward_keys:
            kwargs["position_ids"] = positions_BT
        if not self.want_logits:
            return StepOut(ids_BT.new_empty(0), self._last_hidden(kwargs))
        if self.parameters is None and is_plain(self.lm):
            hidden_BD = self._last_hidden(kwargs)
            return StepOut(self._head(hidden_BD), hidden_BD if self.want_hidden else None)
        if "logits_to_keep" in self.lm.forward_keys:
            kwargs["logits_to_keep"] = 1
        handle = None
        if self.want_hidden:
            handle = self.lm.head.register_forward_pre_hook(self._capture)
        try:
            out = self._call(kwargs)
        finally:
            if handle is not None:
                handle.remove()
        hidden = None if self._captured is None else self._captured[:, -1]
        self._captured = None
        return StepOut(out.logits[:, -1], hidden)

    def _head(self, hidden_BD: Tensor) -> Tensor:
        if self.head_VD is None:
            logits: Tensor = self.lm.head(hidden_BD)
            return logits
        return torch.nn.functional.linear(hidden_BD, self.head_VD, self.lm.head.bias)

    def _call(self, kwargs: dict[str, Any]) -> Any:
        if self.parameters is None:
            return self.lm.model(**kwargs)
        return functional_call(self.lm.model, dict(self.parameters), kwargs=kwargs)

    def _last_hidden(self, kwargs: dict[str, Any]) -> Tensor:
        """The last hidden state without running the LM head."""
        last: Tensor = trunk(self.lm)(**kwargs).last_hidden_state[:, -1]
        return last

    def _capture(self, module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        self._captured = args[0]


def trunk(lm: LM) -> torch.nn.Module:
    """The model without its LM head."""
    decoder = lm.model.get_decoder() if hasattr(lm.model, "get_decoder") else None
    module: torch.nn.Module = lm.model.base_model if decoder is None else decoder
    return module


_PLAIN: WeakKeyDictionary[LM, bool] = WeakKeyDictionary()


def is_plain(lm: LM) -> bool:
    """Whether logits are the head applied to the trunk's output and nothing else; tried once per model.

    Then the two can be run one after the other, and the head's input costs no hook.
    """
    if lm not in _PLAIN:
        ids = torch.tensor([[0, 1]], device=lm.model.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
        with torch.no_grad():
            whole = lm.model(**inputs).logits
            parts = lm.head(trunk(lm)(**inputs).last_hidden_state)
        _PLAIN[lm] = torch.equal(whole, parts)
    return _PLAIN[lm]
