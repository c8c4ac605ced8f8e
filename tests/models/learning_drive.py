"""What the tests of trained head edits share: traces with and without think tags, and short trainings."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from azeotrope.core.types import Trace
from azeotrope.models.corpus import Corpus, read
from azeotrope.models.head_edit import HeadEdit
from azeotrope.models.head_training import Objective, Trained, Training, train
from azeotrope.models.lm import LM
from tiny import fresh, toy_traces

QUICK = Training(epochs=4, lr=0.02, batch_size=8, temperature=0.7, checks=1)
DOUBLE = torch.float64


def reasoned(n: int) -> list[Trace]:
    """Toy traces that think first; every third was cut before it answered."""
    out = []
    for i, trace in enumerate(toy_traces(n)):
        text = f"<think>{trace.text}" + ("" if i % 3 == 2 else f"</think> {trace.text[0]}")
        out.append(
            Trace(problem_id=trace.problem_id, prompt=trace.prompt, text=text, finished=i % 3 != 2, n_tokens=9)
        )
    return out


def models(dtype: torch.dtype = torch.float32, proxies: int = 1) -> tuple[LM, list[LM]]:
    """A teacher and its proxies."""
    families = ("gpt2", "qwen2")
    return (
        fresh("llama", spread=0.2, dtype=dtype),
        [fresh(families[i], spread=0.2, seed=i, dtype=dtype) for i in range(proxies)],
    )


def corpus(n: int = 24, dtype: torch.dtype = torch.float32, proxies: int = 1) -> tuple[LM, Corpus]:
    """A teacher and what it and its proxies make of traces that think."""
    teacher, others = models(dtype, proxies)
    return teacher, read(teacher, others, reasoned(n), dtype)


def always(_: HeadEdit | None) -> float:
    """A teacher that every edit leaves as good as it was."""
    return 1.0


def learn(
    objective: Objective,
    training: Training = QUICK,
    accuracy: Callable[[HeadEdit | None], float] = always,
    seed: int = 1,
) -> Trained:
    """Train with little patience."""
    return train(objective, training, seed=seed, accuracy=accuracy)


def shake(objective: Objective, size: float = 0.1, seed: int = 0) -> None:
    """Put the parameters somewhere that is not their start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in objective.head.parameters:
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(noise, alpha=size)


def slope(value: Callable[[], Tensor], parameters: list[Tensor], seed: int = 3, step: float = 1e-5) -> float:
    """The central difference of `value` along a random direction of the parameters, which are put back."""
    generator = torch.Generator().manual_seed(seed)
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    ends = []
    with torch.no_grad():
        for sign in (1.0, -2.0):
            for p, d in zip(parameters, directions, strict=True):
                p.add_(d, alpha=sign * step)
            ends.append(float(value()))
        for p, d in zip(parameters, directions, strict=True):
            p.add_(d, alpha=step)
    return (ends[0] - ends[1]) / (2.0 * step)


def along(value: Tensor, parameters: list[Tensor], seed: int = 3) -> float:
    """What autograd says of the same slope."""
    generator = torch.Generator().manual_seed(seed)
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    gradients = torch.autograd.grad(value, parameters)
    return float(sum((g * d).sum() for g, d in zip(gradients, directions, strict=True)))
