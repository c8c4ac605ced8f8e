"""The product of experts against its definition, and its ends."""

from __future__ import annotations

import pytest
import torch

from azeotrope.core.errors import ConfigError
from azeotrope.core.sampling import Sampling
from azeotrope.defenses.base import Bench
from azeotrope.defenses.poe import ProductOfExperts
from azeotrope.models.decode import Batch, StepView
from azeotrope.models.lm import LM
from tiny import Toy, fresh


def bench(teacher: LM, proxy: LM, temperature: float) -> Bench:
    return Bench(teacher, Toy(), Sampling(temperature=temperature), load=lambda _: proxy)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 0.0])
@pytest.mark.parametrize("gamma", [0.3, 0.9])
def test_the_mixture_of_log_probabilities(temperature: float, gamma: float) -> None:
    teacher, proxy = fresh("llama", spread=0.2), fresh("gpt2", spread=0.2)
    rule = ProductOfExperts(gamma=gamma).bind(bench(teacher, proxy, temperature))
    prompts = tuple(tuple(teacher.encode(p.prompt)) for p in Toy().problems("release", 3))
    session = rule.open(Batch(prompts, torch.arange(3)))
    tau = temperature or 1.0
    for row, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            own, other = (torch.log_softmax(lm.model(input_ids=ids).logits[0, -1], -1) for lm in (teacher, proxy))
        if row == 0:
            with torch.no_grad():
                logits_BV = torch.stack(
                    [teacher.model(input_ids=torch.tensor([p])).logits[0, -1] / tau for p in prompts]
                )
                got_BV = session.step(StepView(torch.tensor(0), None, logits_BV, None, torch.arange(3)))
        expected = torch.log_softmax(((1 - gamma) * own + gamma * other) / tau, -1)
        assert torch.allclose(torch.log_softmax(got_BV[row], -1), expected, atol=1e-5)
    session.close()


def test_a_proxy_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigError, match="vocabulary"):
        ProductOfExperts().bind(bench(fresh("llama"), fresh("llama", vocab=40), 1.0))
    with pytest.raises(ValueError, match="less than 1"):
        ProductOfExperts(gamma=1.0)
