"""What a model makes of its head's input, against the model itself."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    PreTrainedModel,
)

from azeotrope.core.errors import ConfigError
from azeotrope.models.gradients import head_inputs, token_batches
from azeotrope.models.lm import LM
from azeotrope.models.tail import tail
from tiny import fresh, toy_traces

SHAPE = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "tie_word_embeddings": False, "initializer_range": 0.3, "head_dim": 8,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def model(kind: str, size: int) -> PreTrainedModel:
    torch.manual_seed(5)
    made: dict[str, PreTrainedModel] = {
        "granite": GraniteForCausalLM(GraniteConfig(vocab_size=size, logits_scaling=8.0, **SHAPE)),
        "cohere": CohereForCausalLM(CohereConfig(vocab_size=size, logit_scale=0.25, **SHAPE)),
        "gemma2": Gemma2ForCausalLM(Gemma2Config(vocab_size=size, final_logit_softcapping=2.0, **SHAPE)),
    }
    return made[kind].eval()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "granite", "cohere", "gemma2"])
def test_the_tail_gives_the_models_logits(kind: str) -> None:
    lm = fresh("llama" if kind in ("granite", "cohere", "gemma2") else kind, spread=0.3)
    if kind in ("granite", "cohere", "gemma2"):
        lm = LM(model(kind, lm.vocab_size), lm.tokenizer, kind, "0")
    (batch,) = token_batches(lm, toy_traces(3), 3)
    with torch.no_grad():
        hidden, logits, _ = head_inputs(lm, batch)
    found = tail(lm)
    assert torch.allclose(found(hidden), logits, atol=1e-4 * float(logits.abs().max()))
    assert not found(hidden).requires_grad
    assert found(hidden.double()).dtype == torch.float64
    assert (found.cap, found.factor) == {
        "granite": (None, pytest.approx(0.125)),
        "cohere": (None, pytest.approx(0.25)),
        "gemma2": (2.0, 1.0),
    }.get(kind, (None, 1.0))


@pytest.mark.parametrize("kind", ["granite", "cohere", "gemma2"])
def test_half_precision_is_no_other_tail(kind: str) -> None:
    size = fresh("llama").vocab_size
    lm = LM(model(kind, size).bfloat16(), fresh("llama").tokenizer, kind, "0")
    whole = tail(LM(model(kind, size), lm.tokenizer, kind, "0"))
    assert tail(lm).factor == pytest.approx(whole.factor, rel=0.05)
    assert tail(lm).cap == whole.cap


def test_logits_that_are_made_otherwise_are_refused() -> None:
    lm = fresh("llama")
    lm.model.register_forward_hook(lambda module, given, output: setattr(output, "logits", output.logits.sin()))
    with pytest.raises(ConfigError, match="are not its head's"):
        tail(lm)
