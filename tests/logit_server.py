"""Answers of an OpenAI-compatible server that shows log-probabilities of a real model, and how it may hold back.

    with Served(LogitServer(tiny("llama"), most=5)) as served: ...

The bias is added to the logits before the softmax and the k likeliest of the biased distribution are shown, as
servers did that the attack was published on; `raw` shows the distribution without the bias, as OpenAI's does since
2024. V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from azeotrope.models.lm import LM
from serving import Answer, Asked


@dataclass
class LogitServer:
    """One model on a server. `most` is the largest k; `fail_after` the number of replies until it breaks down."""

    lm: LM
    most: int = 5
    most_bias: float = 100.0
    bias: Literal["applied", "raw", "ignored", "refused"] = "applied"
    shows: bool = True
    digits: int | None = None
    names: Literal["text", "bytes", "legacy"] = "text"
    dtype: torch.dtype = torch.float64
    fail_after: int | None = None
    strips: bool = False
    cold: bool = False  # log-probabilities after division by the temperature 0
    _logits: dict[str, Tensor] = field(default_factory=dict)

    def logits(self, prompt: str) -> Tensor:
        """The model's logits after a prompt. [V], float64."""
        if prompt not in self._logits:
            ids = torch.tensor([self.lm.encode(prompt)])
            with torch.no_grad():
                self._logits[prompt] = self.lm.model(input_ids=ids).logits[0, -1].double()
        return self._logits[prompt]

    def __call__(self, asked: Asked) -> Answer:
        body = asked.body
        if self.fail_after is not None and asked.index >= self.fail_after:
            return Answer({"error": {"message": "out of order"}}, 503)
        if complaint := self._complaint(body):
            return Answer({"error": {"message": complaint}}, 400)
        natural_V = self.logits(asked.prompt).to(self.dtype)
        biased_V = natural_V.clone()
        for token, bias in body.get("logit_bias", {}).items():
            biased_V[int(token)] += bias
        if self.bias == "ignored":
            biased_V = natural_V
        said = int(biased_V.argmax())
        shown_V = torch.log_softmax(
            (natural_V if self.bias == "raw" else biased_V) * (1e9 if self.cold else 1), -1
        )
        chat = asked.path.endswith("/chat/completions")
        k = (body.get("top_logprobs", 0) if body.get("logprobs") else 0) if chat else body.get("logprobs", 0)
        return self._answer(asked, said, shown_V, k, chat)

    def _complaint(self, body: dict[str, Any]) -> str:
        bias = body.get("logit_bias", {})
        k = body.get("top_logprobs") if "top_logprobs" in body else body.get("logprobs", 0)
        assert body["temperature"] == 0
        assert body["max_tokens"] == 1
        if bias and self.bias == "refused":
            return "logit_bias is not supported"
        if any(abs(value) > self.most_bias for value in bias.values()):
            return f"logit_bias must be within {self.most_bias:g}"
        if any(not 0 <= int(token) < self.lm.vocab_size for token in bias):
            return "logit_bias names a token that is not in the vocabulary"
        return f"at most {self.most} logprobs" if k > self.most else ""

    def _answer(self, asked: Asked, said: int, shown_V: Tensor, k: int, chat: bool) -> Answer:
        finish = "stop" if said == self.lm.eos else "length"
        text = self.lm.tokenizer.decode([said])
        usage = {"prompt_tokens": len(self.lm.encode(asked.prompt)), "completion_tokens": 1}
        choice: dict[str, Any] = {"finish_reason": finish, "index": 0}
        text = text.strip() if self.strips else text
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        if k and self.shows:
            top = [(int(i), self._number(shown_V[i])) for i in shown_V.topk(k).indices]
            first = (said, self._number(shown_V[said]))
            choice["logprobs"] = self._chat(asked, first, top) if chat else self._plain(asked, first, top)
        return Answer({"choices": [choice], "usage": usage})

    def _number(self, value: Tensor) -> float:
        return float(value) if self.digits is None else round(float(value), self.digits)

    def _plain(self, asked: Asked, said: tuple[int, float], top: list[tuple[int, float]]) -> dict[str, Any]:
        by_id = asked.body.get("return_tokens_as_token_ids", False)

        def name(token: int) -> str:
            text = str(self.lm.tokenizer.decode([token]))
            if by_id:
                return f"token_id:{token}"
            if self.names == "legacy" and "\ufffd" in text:
                return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self._bytes(token))
            return text

        tops = {name(token): value for token, value in reversed(top)}  # equal texts: the likelier one wins
        return {"tokens": [name(said[0])], "token_logprobs": [said[1]], "top_logprobs": [tops], "text_offset": [0]}

    def _chat(self, asked: Asked, said: tuple[int, float], top: list[tuple[int, float]]) -> dict[str, Any]:
        def by_text(token: int, value: float) -> dict[str, Any]:
            text = str(self.lm.tokenizer.decode([token]))
            raw = self._bytes(token) if self.names == "bytes" else text.encode()
            return {"token": text, "logprob": value, "bytes": list(raw)}

        def by_id(token: int, value: float) -> dict[str, Any]:
            return {"token": f"token_id:{token}", "logprob": value, "bytes": list(f"token_id:{token}".encode())}

        entry = by_id if asked.body.get("return_tokens_as_token_ids", False) else by_text
        return {"content": [{**entry(*said), "top_logprobs": [entry(*pair) for pair in top]}]}

    def _bytes(self, token: int) -> bytes:
        """A byte-level token's own bytes."""
        piece = self.lm.tokenizer.convert_ids_to_tokens(token)
        return bytes(self._signs[sign] if sign in self._signs else _latin(sign) for sign in piece)

    @cached_property
    def _signs(self) -> dict[str, int]:
        """The sign of every ASCII byte, as the tokenizer itself writes it."""
        write = self.lm.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
        return {write(chr(byte))[0][0]: byte for byte in range(128)}


def _latin(sign: str) -> int:
    """The byte of a sign beyond ASCII in byte-level BPE."""
    hidden = [*range(0x21), *range(0x7F, 0xA1), 0xAD]
    return ord(sign) if ord(sign) < 256 else hidden[ord(sign) - 256]
