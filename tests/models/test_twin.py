"""Two perturbed copies walked as one model give what each gives alone.

Shapes: B rows, D hidden size, V vocabulary.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from azeotrope.models.lm import LM
from azeotrope.models.stepper import Stepper
from azeotrope.models.twin import Twin, make_twin
from tiny import FAMILIES, prompts, tiny


def moved(lm: LM, sign: float) -> LM:
    model = copy.deepcopy(lm.model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(noise, alpha=0.05 * sign)
    return LM(model, lm.tokenizer, lm.ref, lm.revision)


def pair(family: str) -> tuple[LM, LM, Twin]:
    lm = tiny(family, dtype=torch.float64)
    first, second = moved(lm, 1.0), moved(lm, -1.0)
    twin = make_twin(first, second)
    assert twin is not None
    return first, second, twin


@pytest.mark.parametrize("family", FAMILIES)
def test_a_twin_walks_as_its_two_halves_do(family: str) -> None:
    first, second, twin = pair(family)
    rows = prompts(5)
    alone = [Stepper(lm) for lm in (first, second)]
    both = Stepper(twin.lm, hidden=True, logits=False)
    with torch.no_grad():
        wanted = [stepper.prefill(rows).logits_BV for stepper in alone]
        hidden = both.prefill([*rows, *rows]).hidden_BD
        for step in range(20):
            assert hidden is not None
            for got, want in zip(twin.logits(hidden), wanted, strict=True):
                torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
            gap = wanted[0] - wanted[1]
            torch.testing.assert_close(twin.difference(hidden), gap, rtol=1e-6, atol=1e-6)
            onto = torch.full_like(gap, 2.0)
            torch.testing.assert_close(twin.difference(hidden, onto, 0.5), onto + 0.5 * gap, rtol=1e-6, atol=1e-6)
            tokens = torch.arange(len(wanted[0])) + step
            if step == 9:  # rows leave
                keep = torch.tensor([4, 0, 2])
                for stepper in alone:
                    stepper.select(keep)
                both.select(torch.cat([keep, keep + 5]))
                tokens = tokens[keep]
            wanted = [stepper.advance(tokens).logits_BV for stepper in alone]
            hidden = both.advance(tokens.repeat(2)).hidden_BD


def test_a_model_with_logits_of_its_own_making_has_no_twin() -> None:
    lm = moved(tiny("llama"), 0.0)
    forward = lm.model.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        out.logits = out.logits * 2.0
        return out

    lm.model.forward = scaled  # type: ignore[method-assign]
    assert make_twin(lm, lm) is None


def test_the_originals_are_left_alone() -> None:
    lm = tiny("gpt2")
    before = copy.deepcopy(lm.model.state_dict())
    assert make_twin(lm, lm) is not None
    assert all(torch.equal(value, before[name]) for name, value in lm.model.state_dict().items())
