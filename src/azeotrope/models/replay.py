"""The defended next-token distributions along given texts: what an API that returns log-probabilities shows.

Shapes: B rows, T tokens of a completion, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from azeotrope.core.errors import RunError
from azeotrope.core.sampling import Sampling
from azeotrope.models.decode import Batch, LogitRule, Session, StepView
from azeotrope.models.gradients import head_inputs, pad_batch
from azeotrope.models.lm import LM
from azeotrope.models.stepper import Stepper, is_plain

Pair = tuple[list[int], list[int]]  # prompt and completion


def replay(
    lm: LM,
    pairs: Sequence[Pair],
    sampling: Sampling,
    *,
    rules: Sequence[LogitRule] = (),
    seeds: Sequence[int] = (),
    batch_size: int = 64,
) -> list[Tensor]:
    """Log-probabilities at temperature 1 of every token of the completions, [T, V] a pair.

    Rules act, as in decoding, on logits that have been divided by the sampling temperature; the division is
    undone afterwards, as an API reports log-probabilities of the model and not of the sampler. `seeds` (one a
    pair) matter to rules that are random. Repetition penalties are of the sampler and left out. Raises RunError if
    logits are not finite.
    """
    order = sorted((i for i in range(len(pairs)) if pairs[i][1]), key=lambda i: -sum(map(len, pairs[i])))
    found: list[Tensor] = [torch.empty(0, lm.vocab_size)] * len(pairs)
    temperature = sampling.divisor
    head_VD = rules[0].edited_head(lm, temperature) if len(rules) == 1 and is_plain(lm) else None
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            part = [pairs[i] for i in chosen]
            if head_VD is not None or not rules:
                logits = _at_once(lm, part, head_VD)
            else:
                logits = _step_by_step(lm, part, [seeds[i] if seeds else 0 for i in chosen], temperature, rules)
            for i, logits_TV in zip(chosen, logits, strict=True):
                if not torch.isfinite(logits_TV.amax(-1)).all():
                    raise RunError("The teacher's logits are not finite; check its weights and the defense.")
                found[i] = torch.log_softmax(logits_TV.float(), -1)
    return found


def _at_once(lm: LM, pairs: Sequence[Pair], head_VD: Tensor | None) -> list[Tensor]:
    hidden_ND, logits_NV, _ = head_inputs(lm, pad_batch(pairs, lm.pad))
    if head_VD is not None:
        logits_NV = torch.nn.functional.linear(hidden_ND, head_VD, lm.head.bias)
    return list(torch.split(logits_NV, [len(completion) for _, completion in pairs]))


def _step_by_step(
    lm: LM, pairs: Sequence[Pair], seeds: Sequence[int], temperature: float, rules: Sequence[LogitRule]
) -> list[Tensor]:
    """Walk all rows in step; those that have ended are dropped."""
    seeds_B = torch.tensor(list(seeds), dtype=torch.int64, device=lm.model.device)
    batch = Batch(tuple(tuple(prompt) for prompt, _ in pairs), seeds_B)
    teacher = Stepper(lm, hidden=any(rule.needs_hidden for rule in rules))
    sessions: list[Session] = []
    rows: list[list[Tensor]] = [[] for _ in pairs]
    try:
        sessions.extend(rule.open(batch) for rule in rules)
        out = teacher.prefill(batch.prompts)
        tokens_B: Tensor | None = None
        live = list(range(len(pairs)))
        for t in range(max(len(completion) for _, completion in pairs)):
            logits_BV = out.logits_BV / temperature
            for session in sessions:
                logits_BV = session.step(
                    StepView(torch.full_like(seeds_B, t), tokens_B, logits_BV, out.hidden_BD, seeds_B)
                )
            for i, logits_V in zip(live, logits_BV * temperature, strict=True):
                rows[i].append(logits_V)
            keep = [k for k, i in enumerate(live) if len(pairs[i][1]) > t + 1]
            if not keep:
                break
            if len(keep) < len(live):
                kept_B = torch.tensor(keep, device=lm.model.device)
                live, seeds_B = [live[k] for k in keep], seeds_B[kept_B]
                teacher.select(kept_B)
                for session in sessions:
                    session.select(kept_B)
            tokens_B = torch.tensor([pairs[i][1][t] for i in live], device=lm.model.device)
            out = teacher.advance(tokens_B)
    finally:
        teacher.close()
        for session in sessions:
            session.close()
    return [torch.stack(row) for row in rows]
