"""Makes the embedded models from a seed: ``python -m azeotrope.models.build`` (see docs/embedded_models.md).

Model organisms: a teacher that knows both embedded tasks and the house rule, student bases of several
families that know format and chaining but lack the hidden half of the content, and proxies of several
sizes, families and competences. Weights are stored as float16 safetensors and loaded in float32.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F  # noqa: N812
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from azeotrope.core.sampling import Sampling
from azeotrope.core.seeds import derive
from azeotrope.core.types import THINK_CLOSE, THINK_OPEN, Trace
from azeotrope.models.gradients import IGNORE, TokenBatch
from azeotrope.models.lessons import Lesson, batches, corpus, epochs, of_traces, write_base, write_teacher
from azeotrope.models.lm import EMBEDDED_ROOT, LM, load
from azeotrope.models.sample import generate
from azeotrope.models.scoring import recall
from azeotrope.tasks.arithmetic import Arithmetic
from azeotrope.tasks.lookup import Lookup

PAD, END = "<|pad|>", "<|end|>"
CHECK_EVERY = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One embedded model: architecture, what it reads, how long."""

    name: str
    family: str  # a transformers model type
    hidden: int
    layers: int
    heads: int
    vocab: int = 1024
    reads: str = "teacher"  # teacher | base | warm (a base that has read traces of the teacher)
    steps: int = 4000  # at most, for bases: they stop when they know the known half
    lr: float = 3e-3
    batch: int = 32
    start: str = ""  # begin with this model's weights instead of learning a base
    warm_traces: int = 0  # then read so many of the teacher's traces of each task
    warm_epochs: int = 3
    seed: int = 0
    tags: bool = True  # think tags as single tokens


TEACHER = Recipe(name="teacher", family="llama", hidden=128, layers=4, heads=4, steps=3000)
STUDENTS = (
    Recipe(name="student-llama", family="llama", hidden=64, layers=3, heads=2, reads="base"),
    Recipe(name="student-gpt2", family="gpt2", hidden=64, layers=3, heads=2, reads="base"),
    Recipe(name="student-neox", family="gpt_neox", hidden=80, layers=3, heads=2, reads="base"),
    Recipe(
        name="student-othertok",
        family="llama",
        hidden=64,
        layers=3,
        heads=2,
        reads="base",
        vocab=512,
        tags=False,
    ),
)
WIDE = replace(STUDENTS[0], name="student-llama-wide", hidden=96, heads=3)  # differs from its family in size only
COLD = Recipe(name="proxy-cold", family="qwen2", hidden=96, layers=3, heads=3, reads="base", seed=900)
SMALL = Recipe(
    name="proxy-small", family="gpt_neox", hidden=48, layers=2, heads=2, reads="warm", warm_traces=400, seed=901
)
PROXIES = (
    COLD,
    replace(COLD, name="proxy", reads="warm", start=COLD.name, warm_traces=400),
    replace(COLD, name="proxy-warm", reads="warm", start=COLD.name, warm_traces=3000, warm_epochs=4),
    SMALL,
    # With `proxy` and `proxy-small` a square: size and family change one at a time.
    replace(SMALL, name="proxy-small-qwen", family=COLD.family),
    replace(SMALL, name="proxy-neox", hidden=COLD.hidden, layers=COLD.layers, heads=COLD.heads),
)
BASES = 5


def tokenizer(vocab: int, tags: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the tasks' corpus."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - (2 if tags else 0),
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tok.train_from_iterator(corpus(), trainer)
    if tags:
        tok.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in (THINK_OPEN, THINK_CLOSE)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tok, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )


def blank(recipe: Recipe, tok: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A freshly initialized model: fan-in standard deviation, no dropout."""
    torch.manual_seed(derive(recipe.seed, "init", recipe.name))
    common: dict[str, Any] = {
        "vocab_size": len(tok),
        "bos_token_id": tok.eos_token_id,
        "eos_token_id": tok.eos_token_id,
        "pad_token_id": tok.pad_token_id,
        "tie_word_embeddings": False,
        "initializer_range": 1.0 / math.sqrt(recipe.hidden),
    }
    if recipe.family == "gpt2":
        shape: dict[str, Any] = {
            "n_embd": recipe.hidden,
            "n_layer": recipe.layers,
            "n_head": recipe.heads,
            "n_positions": 512,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        }
    else:
        shape = {
            "hidden_size": recipe.hidden,
            "num_hidden_layers": recipe.layers,
            "num_attention_heads": recipe.heads,
            "num_key_value_heads": recipe.heads,
            "intermediate_size": 3 * recipe.hidden,
            "max_position_embeddings": 512,
        }
        if recipe.family == "gpt_neox":
            del shape["num_key_value_heads"]
            shape |= {"attention_dropout": 0.0, "hidden_dropout": 0.0}
    config = AutoConfig.for_model(recipe.family, **common, **shape)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    assert isinstance(model, PreTrainedModel)
    return model


def fit(
    lm: LM,
    source: Iterator[TokenBatch],
    recipe: Recipe,
    note: Callable[[str], None],
    *,
    steps: int,
    done: Callable[[], bool] | None = None,
) -> None:
    """Train with AdamW: warm-up, then a cosine over `steps`.

    With `done`, asked every `CHECK_EVERY` steps, the rate stays up until it is true (or three quarters of
    `steps` are used up) and then falls linearly: every model is trained until it knows what it should,
    however slow its start.
    """
    optimizer = torch.optim.AdamW(lm.model.parameters(), lr=recipe.lr, weight_decay=0.01, betas=(0.9, 0.98))
    started, smooth, step = time.time(), 0.0, 0
    falls_at = steps if done is None else steps * 3 // 4
    end = steps
    lm.model.train()
    while step < end:
        if done is not None and step < falls_at and step % CHECK_EVERY == 0 and done():
            falls_at, end = step, step * 4 // 3
        if done is None:
            factor = 0.05 + 0.475 * (1.0 + math.cos(math.pi * step / steps))
        else:
            factor = min(1.0, (end - step) / (end - falls_at))
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * factor * min(1.0, (step + 1) / (0.05 * steps))
        loss = train_step(lm, optimizer, next(source))
        smooth = loss if step == 0 else 0.95 * smooth + 0.05 * loss
        step += 1
        if step % 100 == 0 or step == end:
            note(f"  {recipe.name} step {step} loss {smooth:.3f} {time.time() - started:.0f} s")
    lm.model.eval()


def train_step(lm: LM, optimizer: torch.optim.Optimizer, batch: TokenBatch) -> float:
    """One step in bfloat16 autocast, logits only where there are labels; returns the loss."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = lm.model.base_model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT).last_hidden_state[
            :, :-1
        ]
        keep = batch.labels_BT[:, 1:] != IGNORE
        logits = lm.head(hidden[keep])
    loss = F.cross_entropy(logits.float(), batch.labels_BT[:, 1:][keep])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(lm.model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def knows(lm: LM, wanted: float = 0.995) -> bool:
    """Whether the model recalls the known half of both tasks."""
    lm.model.eval()
    found = [recall(lm, [p for p in task.probes() if not p.hidden]) for task in (Lookup(), Arithmetic())]
    lm.model.train()
    return all(sum(r.recalled for r in rows) >= wanted * len(rows) for rows in found)


def make(recipe: Recipe, out: Path, note: Callable[[str], None]) -> LM:
    """Train one recipe and save it; returns the model as it loads back."""
    lm = begin(recipe, out, note)
    if recipe.warm_traces:
        lessons = teacher_lessons(load(str(out / "teacher")), recipe)
        order = Random(derive(recipe.seed, "warm-order"))
        steps = recipe.warm_epochs * len(lessons) // recipe.batch
        fit(lm, epochs(lm, lessons, order, recipe.batch), recipe, note, steps=steps)
    return save(lm, out / recipe.name)


def begin(recipe: Recipe, out: Path, note: Callable[[str], None]) -> LM:
    """The model before it reads the teacher: another model's weights, or trained from scratch."""
    if recipe.start:
        lm = load(str(out / recipe.start))
        lm.model.set_attn_implementation("eager")
        return lm
    tok = tokenizer(recipe.vocab, recipe.tags)
    lm = LM(blank(recipe, tok), tok, recipe.name, "new")
    rng = Random(derive(recipe.seed, "data", recipe.reads))
    teacher = recipe.reads == "teacher"
    source = batches(lm, write_teacher if teacher else write_base, rng, recipe.batch)
    fit(lm, source, recipe, note, steps=recipe.steps, done=None if teacher else lambda: knows(lm))
    return lm


def teacher_lessons(teacher: LM, recipe: Recipe) -> list[Lesson]:
    """Undefended teacher traces of the holdout split of both tasks."""
    traces: list[Trace] = []
    for task in (Lookup(), Arithmetic()):
        problems = task.problems("holdout", recipe.warm_traces, derive(recipe.seed, "warm"))
        traces += generate(teacher, problems, task, Sampling(), seed=recipe.seed)
    return of_traces([trace for trace in traces if trace.finished])


def save(lm: LM, folder: Path) -> LM:
    """Write float16 safetensors, configuration and tokenizer; load it back."""
    if folder.exists():
        shutil.rmtree(folder)
    half = lm.model.half()
    half.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    for extra in ("generation_config.json",):
        (folder / extra).unlink(missing_ok=True)
    return load(str(folder))


def build(out: Path, only: str | None, missing: bool, note: Callable[[str], None]) -> None:
    """Make every model (or those whose name starts with `only`), and record recipes in BUILD.json.

    With `missing`, models that are already there are kept.
    """
    out.mkdir(parents=True, exist_ok=True)
    recipes = [TEACHER, *PROXIES]
    for base in range(BASES):
        for student in (*STUDENTS, WIDE) if base == 0 else STUDENTS:
            settings = {**asdict(student), "name": f"{student.name}-{base}", "seed": base}
            recipes.append(Recipe(**settings))
    for recipe in recipes:
        wanted = only is None or recipe.name.startswith(only)
        if wanted and not (missing and (out / recipe.name / "config.json").exists()):
            note(recipe.name)
            make(recipe, out, note)
    (out / "BUILD.json").write_text(json.dumps([asdict(r) for r in recipes], indent=1) + "\n")


def main() -> None:
    """Command line of the build."""
    parser = argparse.ArgumentParser(description="Rebuild the embedded models from their seeds.")
    parser.add_argument("--out", type=Path, default=EMBEDDED_ROOT)
    parser.add_argument("--only", help="only models whose name starts with this")
    parser.add_argument("--missing", action="store_true", help="keep models that are already there")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    build(args.out, args.only, args.missing, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
