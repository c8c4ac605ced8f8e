"""Tiny random models of several families, with the embedded tokenizer's interface."""

from __future__ import annotations

from functools import lru_cache

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from azeotrope.models.lm import LM

FAMILIES = ("llama", "gpt2", "gpt_neox", "qwen2")


class FakeTokenizer:
    """Just enough of a tokenizer for the decoder: ids are characters' code points."""

    eos_token_id = 1
    pad_token_id = 0

    def __init__(self, vocab: int) -> None:
        self.vocab = vocab

    def get_vocab(self) -> dict[str, int]:
        return {str(i): i for i in range(self.vocab)}

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [2 + ord(c) % (self.vocab - 2) for c in text]

    def __call__(self, texts: list[str], add_special_tokens: bool = False) -> dict[str, list[list[int]]]:
        return {"input_ids": [self.encode(t) for t in texts]}

    def decode(self, ids: list[int], **_: object) -> str:
        return " ".join(map(str, ids))


@lru_cache
def tiny(family: str, vocab: int = 67, hidden: int = 32, seed: int = 0, dtype: torch.dtype = torch.float32) -> LM:
    """A random model; initialization is wide, so that its distributions are peaked and differ."""
    torch.manual_seed(seed)
    common = {"vocab_size": vocab, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    if family == "gpt2":
        shape = {"n_embd": hidden, "n_layer": 2, "n_head": 4, "n_positions": 256}
        shape |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    else:
        shape = {
            "hidden_size": hidden,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 2 * hidden,
            "max_position_embeddings": 256,
        }
        if family != "gpt_neox":
            shape["num_key_value_heads"] = 2
    config = AutoConfig.for_model(family, **common, **shape, initializer_range=0.3, tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    return LM(model, FakeTokenizer(vocab), f"tiny/{family}", f"{family}-{seed}")
