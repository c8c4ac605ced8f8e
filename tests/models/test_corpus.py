"""What an edit is learned from must be finite."""

from __future__ import annotations

import pytest
import torch

from azeotrope.core.errors import ConfigError
from azeotrope.models.corpus import read
from tiny import fresh, toy_traces


@pytest.mark.parametrize("broken", ["teacher", "surrogate"])
def test_logits_that_are_not_finite_are_refused_by_name(broken: str) -> None:
    models = {"teacher": fresh("llama"), "surrogate": fresh("gpt2")}
    for name, lm in models.items():
        lm.ref = name
    with torch.no_grad():
        models[broken].head.weight[3] = float("nan")
    with pytest.raises(ConfigError, match=f"The logits of '{broken}' along the teacher's traces are not finite"):
        read(models["teacher"], [models["surrogate"]], toy_traces(4))
