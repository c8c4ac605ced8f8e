"""The stepper and its cache against full forward passes."""

from __future__ import annotations

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from azeotrope.models.attention import step_attention
from azeotrope.models.cache import RoomyCache, RoomyLayer, capacity
from azeotrope.models.stepper import Stepper
from tiny import FAMILIES, path, prompts, tiny

DOUBLE = torch.float64


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_equal_a_full_pass(family: str) -> None:
    """Logits and LM-head inputs, with left padding, past the first block of the cache, and after drops."""
    lm, rows, walk = tiny(family, dtype=DOUBLE), [*prompts(4), [7] * 60], path(5, 80)
    stepper = Stepper(lm, hidden=True)
    trunk = Stepper(lm, hidden=True, logits=False)
    alive = [0, 1, 2, 3, 4]
    with torch.no_grad():
        texts = [torch.tensor([[*row, *steps]]) for row, steps in zip(rows, walk.tolist(), strict=True)]
        full = [lm.model(text, output_hidden_states=True) for text in texts]
        for t in range(81):
            if t in (3, 70):
                keep = torch.tensor([0, 2, 3] if t == 3 else [1, 2])
                alive = [alive[i] for i in keep.tolist()]
                stepper.select(keep)
                trunk.select(keep)
            outs = [s.prefill(rows) if t == 0 else s.advance(walk[alive, t - 1]) for s in (stepper, trunk)]
            for place, i in enumerate(alive):
                at = len(rows[i]) - 1 + t
                assert torch.allclose(outs[0].logits_BV[place], full[i].logits[0, at], atol=1e-5)
                for out in outs:
                    assert torch.allclose(out.hidden_BD[place], full[i].hidden_states[-1][0, at], atol=1e-5)
            assert torch.allclose(outs[0].hidden_BD @ lm.head.weight.T, outs[0].logits_BV, atol=1e-9)
            assert torch.allclose(outs[1].hidden_BD, outs[0].hidden_BD, atol=1e-12)


def test_replaced_parameters_are_used_and_not_kept() -> None:
    lm = tiny("llama", dtype=DOUBLE)
    other = {n: 1.1 * p.detach() for n, p in lm.model.named_parameters()}
    with torch.no_grad():
        plain = Stepper(lm).prefill([[3, 4]]).logits_BV
        moved = Stepper(lm, parameters=other).prefill([[3, 4]]).logits_BV
        again = Stepper(lm).prefill([[3, 4]]).logits_BV
    assert not torch.allclose(plain, moved)
    assert torch.equal(plain, again)


def test_hooks_do_not_outlive_a_step() -> None:
    lm = tiny("llama")
    with torch.no_grad():
        Stepper(lm, hidden=True).prefill([[3, 4]])
    assert not lm.head._forward_pre_hooks


def test_layer_appends_selects_and_drops() -> None:
    generator = torch.Generator().manual_seed(0)
    layer, whole = RoomyLayer(), []
    for size in (3, 1, 1, 130, 1):
        new = torch.randn((4, 2, size, 5), generator=generator)
        whole.append(new)
        keys, values = layer.update(new, -new)
        stored = torch.cat(whole, -2)
        size = stored.shape[-2]
        assert torch.equal(keys[..., :size, :], stored)
        assert torch.equal(values[..., :size, :], -stored)
        assert keys.shape[-2] == capacity(size)
        assert not keys[..., size:, :].any()
        assert keys.is_contiguous()
    assert layer.get_seq_length() == 136
    layer.batch_select_indices(torch.tensor([3, 1]))
    new = torch.randn((2, 2, 1, 5), generator=generator)
    keys, _ = layer.update(new, -new)
    assert torch.equal(keys[..., :137, :], torch.cat([torch.cat(whole, -2)[[3, 1]], new], -2))
    layer.drop()
    assert layer.get_seq_length() == 0
    assert not layer.buffers


def test_a_closed_cache_holds_nothing() -> None:
    lm = tiny("llama")
    stepper = Stepper(lm)
    with torch.no_grad():
        stepper.prefill([[3, 4]])
    assert isinstance(stepper.cache, RoomyCache)
    assert all(layer.buffers for layer in stepper.cache.layers)
    stepper.close()
    assert not any(layer.buffers for layer in stepper.cache.layers)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", ["bool", "float", "none"])
def test_step_attention_is_the_fused_kernels(groups: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    query, key, value = draw(3, 4, 1, 8), draw(3, 4 // groups, 9, 8), draw(3, 4 // groups, 9, 8)
    mask = torch.ones(3, 1, 1, 9, dtype=torch.bool)
    mask[0, ..., 7:] = False
    module = torch.nn.Module()
    module.num_key_value_groups = groups
    given = {
        "bool": mask,
        "float": torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -1e9),
        "none": None,
    }[kind]
    got, _ = step_attention(module, query, key, value, given, scaling=0.3, dropout=0.0)
    wanted, _ = sdpa_attention_forward(module, query, key, value, given, scaling=0.3, dropout=0.0)
    torch.testing.assert_close(got, wanted)


def test_the_models_attention_is_as_before_after_a_step() -> None:
    lm = tiny("llama")
    before = lm.model.config._attn_implementation
    stepper = Stepper(lm)
    with torch.no_grad():
        stepper.prefill([[3, 4]])
        stepper.advance(torch.tensor([5]))
    assert lm.model.config._attn_implementation == before == "sdpa"
