"""Head edits: merged, as another head, and logit by logit are the same edit; the inverse undoes it."""

from __future__ import annotations

import pytest
import torch
from transformers import GraniteConfig, GraniteForCausalLM

from azeotrope.core.errors import ConfigError
from azeotrope.core.sampling import Sampling
from azeotrope.maths import lowrank
from azeotrope.models.head_edit import EditRule, HeadEdit, HeadShift, LogitMap, edit_of, merged
from azeotrope.models.lm import LM
from azeotrope.models.sample import generate
from tiny import Toy, fresh

FAMILIES = ("llama", "gpt2", "gpt_neox")


def edits(lm: LM, scale: float = 1.0) -> dict[str, HeadEdit]:
    generator = torch.Generator().manual_seed(5)
    size, width = lm.head.weight.shape
    a, b, d = (0.2 * torch.randn(*s, generator=generator) for s in ((size, 3), (3, size), (size, width)))
    return {"map": LogitMap(a, lowrank.centered(b), scale), "shift": HeadShift(d, scale)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["map", "shift"])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 0.0])
def test_every_way_to_serve_it_says_the_same(family: str, kind: str, temperature: float) -> None:
    lm = fresh(family, spread=0.2)
    edit = edits(lm)[kind]
    problems, sampling = Toy().problems("release", 6), Sampling(temperature=temperature)
    tau = temperature or 1.0
    texts = {
        name: [t.token_ids for t in generate(model, problems, Toy(), sampling, rules=rules, seed=3)]
        for name, model, rules in (
            ("weights", merged(lm, edit), ()),
            ("head", lm, (EditRule(edit, tau),)),
            ("unmerged", lm, (EditRule(edit, tau, merge=False),)),
            ("none", lm, ()),
        )
    }
    assert texts["weights"] == texts["head"] == texts["unmerged"]
    assert texts["weights"] != texts["none"]


def test_scale_zero_is_no_edit_and_the_inverse_undoes() -> None:
    lm = fresh("llama")
    for edit in edits(lm).values():
        assert torch.equal(merged(lm, edit.scaled(0.0)).head.weight, lm.head.weight)
    edit = edits(lm, 0.8)["map"]
    assert isinstance(edit, LogitMap)
    back = merged(merged(lm, edit), edit.inverse())
    assert torch.allclose(back.head.weight, lm.head.weight, atol=1e-5)


def test_a_bias_is_edited_too() -> None:
    lm = fresh("llama")
    lm.head.bias = torch.nn.Parameter(torch.linspace(-1, 1, lm.vocab_size))
    edit = edits(lm)["map"]
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        before, after = (m.model(input_ids=ids).logits[0] for m in (lm, merged(lm, edit)))
    assert torch.allclose(after, edit.shift(before, None, 1.0), atol=1e-4)
    assert EditRule(edit, 1.0).edited_head(lm, 1.0) is None


def test_tied_embeddings_stay_as_they_are() -> None:
    lm = fresh("llama", tied=True)
    edited = merged(lm, edits(lm)["shift"])
    assert torch.equal(edited.model.get_input_embeddings().weight, lm.model.get_input_embeddings().weight)
    assert not torch.equal(edited.head.weight, lm.head.weight)


def test_a_model_that_caps_its_logits_is_edited_after_the_cap() -> None:
    lm = fresh("llama")
    edit = edits(lm)["map"]
    lm.model.config.final_logit_softcapping = 30.0
    with pytest.raises(ConfigError, match="bends its logits"):
        merged(lm, edit)
    assert EditRule(edit, 1.0).edited_head(lm, 1.0) is None


@pytest.mark.parametrize("kind", ["map", "shift"])
def test_a_model_that_scales_its_logits_is_merged_to_what_it_is_unmerged(kind: str) -> None:
    torch.manual_seed(3)
    config = GraniteConfig(
        vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, logits_scaling=8.0, tie_word_embeddings=False, initializer_range=0.2,
    )  # fmt: skip
    lm = LM(GraniteForCausalLM(config).eval(), fresh("llama").tokenizer, "granite", "0")
    edit, ids = edits(lm)[kind], torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        out = lm.model(input_ids=ids, output_hidden_states=True)
        after = merged(lm, edit).model(input_ids=ids).logits[0]
    assert torch.allclose(after, edit.shift(out.logits[0], out.hidden_states[-1][0], 1.0), atol=1e-4)
    assert not torch.allclose(after, out.logits[0], atol=1e-2)


def test_tensors_make_the_edit_again() -> None:
    lm = fresh("llama")
    for edit in edits(lm).values():
        again = edit_of(edit.tensors())
        assert type(again) is type(edit)
        assert torch.equal(again.change(lm), edit.change(lm))
    with pytest.raises(ConfigError, match="No head edit"):
        edit_of({"x": torch.zeros(1)})


def test_sizes_that_do_not_fit_are_named() -> None:
    lm, other = fresh("llama"), fresh("llama", vocab=40, hidden=64)
    for edit in edits(other).values():
        with pytest.raises(ConfigError, match=r"fit|cannot edit"):
            edit.change(lm)
