"""Tiny random models, a toy task and a forced walk through the decoder's parts, for every test folder.

Shapes: B rows, T steps, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random
from typing import ClassVar

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from azeotrope.core.sampling import Sampling
from azeotrope.core.types import Problem, Trace
from azeotrope.defenses.base import Bench
from azeotrope.models.decode import Batch, LogitRule, Session, StepView
from azeotrope.models.lm import LM
from azeotrope.models.stepper import Stepper
from azeotrope.tasks.base import Grade, Task

FAMILIES = ("llama", "gpt2", "gpt_neox", "qwen2")
VOCAB = 67


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

    def __call__(
        self, texts: str | list[str], add_special_tokens: bool = False, return_offsets_mapping: bool = False
    ) -> dict[str, object]:
        if isinstance(texts, str):
            return {"input_ids": self.encode(texts), "offset_mapping": [(i, i + 1) for i in range(len(texts))]}
        return {"input_ids": [self.encode(t) for t in texts]}

    def decode(self, ids: list[int], **_: object) -> str:
        return " ".join(map(str, ids))


def fresh(
    family: str,
    vocab: int = VOCAB,
    hidden: int = 32,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    tied: bool = False,
    spread: float = 0.3,
) -> LM:
    """A random model of its own; a wide initialization makes its distributions peaked and different."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        common = {"vocab_size": vocab, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
        if family == "gpt2":
            shape: dict[str, object] = {"n_embd": hidden, "n_layer": 2, "n_head": 4, "n_positions": 256}
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
        config = AutoConfig.for_model(
            family, **common, **shape, initializer_range=spread, tie_word_embeddings=tied
        )
        model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    return LM(model, FakeTokenizer(vocab), f"tiny/{family}", f"{family}-{seed}")


@lru_cache
def tiny(
    family: str,
    vocab: int = VOCAB,
    hidden: int = 32,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    tied: bool = False,
) -> LM:
    """The same, shared between tests: never modify it."""
    return fresh(family, vocab, hidden, seed, dtype, tied)


def prompts(n: int, seed: int = 0, vocab: int = VOCAB) -> list[list[int]]:
    """Token ids of `n` prompts of 1 to 12 tokens."""
    rng = random.Random(seed)
    return [[rng.randrange(2, vocab) for _ in range(rng.randint(1, 12))] for _ in range(n)]


class Toy(Task):
    """Prompts of a few letters; the gold trace is the prompt's letters in order."""

    kind: ClassVar[str] = "toy"
    max_new_tokens: ClassVar[int] = 12

    def problems(self, split: str, n: int, seed: int = 0) -> list[Problem]:
        out = []
        for i in range(n):
            rng = Random(f"{split}/{seed}/{i}")
            prompt = "".join(rng.choice("abcdefghij") for _ in range(rng.randint(3, 9)))
            out.append(Problem(id=f"{split}-{seed}-{i}", task="toy", prompt=prompt, answer=prompt[0]))
        return out

    def grade(self, problem: Problem, text: str) -> Grade:
        return Grade(correct=text.startswith(problem.answer), answer=text[:1] or None)

    def gold_traces(self, problems: Sequence[Problem], seed: int = 0) -> list[Trace]:
        return [
            Trace(problem_id=p.id, prompt=p.prompt, text="".join(sorted(p.prompt)), n_tokens=len(p.prompt))
            for p in problems
        ]


def toy_traces(n: int, split: str = "holdout", seed: int = 0) -> list[Trace]:
    """Gold traces of the toy task."""
    return Toy().gold_traces(Toy().problems(split, n, seed))


def bench(
    teacher: LM | None = None,
    proxy: str = "qwen2",
    dtype: torch.dtype = torch.float64,
    load: Callable[[str], LM] | None = None,
    temperature: float = 1.0,
) -> Bench:
    """A workplace on tiny models; every reference loads the tiny proxy."""
    return Bench(
        teacher=tiny("llama", dtype=dtype) if teacher is None else teacher,
        task=Toy(),
        sampling=Sampling(temperature=temperature),
        load=load or (lambda _ref: tiny(proxy, seed=7, dtype=dtype)),
    )


def path(rows: int, steps: int, seed: int = 5, vocab: int = VOCAB) -> Tensor:
    """Tokens [B, T] to force upon a walk."""
    rng = random.Random(seed)
    return torch.tensor([[rng.randrange(2, vocab) for _ in range(steps)] for _ in range(rows)])


def drive(
    lm: LM,
    rule: LogitRule,
    rows: Sequence[Sequence[int]],
    seeds: Sequence[int],
    path_BT: Tensor,
    *,
    temperature: float = 1.0,
    mask: Sequence[int] = (),
    drop: tuple[int, Sequence[int]] | None = None,
    watch: Callable[[StepView, Session], None] | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Walk a rule along forced tokens; returns (logits before, logits after) per step, [B, V] each.

    `mask` lists tokens whose logits are −inf before the rule; `drop` = (step, rows kept from then on).
    """
    batch = Batch(tuple(tuple(r) for r in rows), torch.tensor(list(seeds), dtype=torch.int64))
    teacher = Stepper(lm, hidden=rule.needs_hidden)
    seeds_B, tokens_B, found = batch.seeds_B, None, []
    with torch.no_grad():
        session = rule.open(batch)
        out = teacher.prefill(batch.prompts)
        for t in range(path_BT.shape[1] + 1):
            if drop is not None and t == drop[0]:
                keep = torch.tensor(list(drop[1]))
                teacher.select(keep)
                session.select(keep)
                path_BT, seeds_B = path_BT[keep], seeds_B[keep]
            if t:
                tokens_B = path_BT[:, t - 1]
                out = teacher.advance(tokens_B)
            before_BV = out.logits_BV / temperature
            if mask:
                before_BV = before_BV.clone()
                before_BV[:, list(mask)] = float("-inf")
            view = StepView(torch.tensor(t), tokens_B, before_BV, out.hidden_BD, seeds_B)
            if watch is not None:
                watch(view, session)
            found.append((before_BV, session.step(view)))
        teacher.close()
        session.close()
    return found


def kl(after_BV: Tensor, before_BV: Tensor) -> Tensor:
    """KL(softmax(after) ‖ softmax(before)) in nats per row, in float64. [B]."""
    log_p, log_q = (torch.log_softmax(x.double(), -1) for x in (after_BV, before_BV))
    return torch.where(log_p.isneginf(), 0.0, log_p.exp() * (log_p - log_q)).sum(-1)
