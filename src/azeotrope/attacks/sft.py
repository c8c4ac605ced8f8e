"""Supervised fine-tuning on released text: the passive thief.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import torch
from pydantic import Field
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from azeotrope.attacks.base import AttackRun, LossPoint, Outcome, StudentAttack
from azeotrope.attacks.guide import Guide, Target
from azeotrope.core.access import Access
from azeotrope.core.errors import RunError
from azeotrope.core.methods import Maturity
from azeotrope.core.release import Release
from azeotrope.core.seeds import derive
from azeotrope.core.types import Paper, Trace
from azeotrope.models.attention import fast_attention
from azeotrope.models.exposure import Exposure
from azeotrope.models.gradients import IGNORE, completions, labeled_logits, nll, pad_batch
from azeotrope.models.lm import LM
from azeotrope.models.precision import native_bfloat16

SLICE_ROWS = 8  # rows of like length that go through a model together on a CPU


class Row(NamedTuple):
    """One example: its place among the texts, token ids, a weight, and what a guide needs. `own`: own text."""

    place: int
    prompt: list[int]
    completion: list[int]
    weight: float = 1.0
    target: Exposure | None = None
    own: bool = False


class SFT(StudentAttack):
    """Fine-tune on (prompt, completion) pairs with loss on completions only, by transformers' Trainer.

    Full fine-tuning by default; `lora_rank` > 0 trains LoRA adapters on all linear layers and merges them.
    The recipe is that of arXiv 2504.13146 (AdamW, cosine, warm-up, clipping at 1), with a learning rate
    and number of epochs that suit the embedded models.
    """

    kind: ClassVar[str] = "sft"
    summary: ClassVar[str] = "fine-tune on the released text (passive)"
    paper: ClassVar[Paper | None] = Paper(id="2504.13146", title="Antidistillation Sampling", equations=())
    maturity: ClassVar[Maturity] = Maturity.EXPERIMENTAL
    needs: ClassVar[Access] = Access.TEXT

    epochs: int = Field(default=5, ge=1)
    lr: float = Field(default=5e-3, gt=0)
    batch_size: int = Field(default=32, ge=1)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of the steps")
    max_length: int = Field(default=512, ge=8, description="tokens; longer examples are cut")
    lora_rank: int = Field(default=0, ge=0, description="0 trains all weights")
    lora_alpha: int = Field(default=128, ge=1)
    bfloat16: bool = Field(
        default=True,
        description="train in bfloat16 autocast where the machine computes in it (weights stay float32)",
    )
    curve_points: int = Field(default=6, ge=0, description="holdout-loss measurements during training")

    def train(self, bases: Sequence[LM], release: Release, run: AttackRun) -> Outcome:
        """Train each base on the release with its own shuffle seed; see `StudentAttack.train`."""
        traces = release.view(self.needs, reader=f"The attack '{self.kind}'").traces
        outcome = Outcome(students=list(bases))
        for index, lm in enumerate(bases):
            self.teach(lm, traces, run, index, outcome)
        return outcome

    def teach(
        self,
        lm: LM,
        traces: Sequence[Trace],
        run: AttackRun,
        index: int,
        outcome: Outcome,
        weights: Sequence[float] | None = None,
        guide: Guide | None = None,
    ) -> None:
        """Train one base in place on `traces` (empty ones are skipped), adding to `outcome`.

        `weights` multiply each trace's loss; their mean should be 1. With a `guide`, the loss is the guide's.
        """
        scale = [1.0] * len(traces) if weights is None else weights
        kept = [i for i, trace in enumerate(traces) if trace.text]
        if kept:
            data = _Pairs(lm, [traces[i] for i in kept], self.max_length, [scale[i] for i in kept])
            if guide is not None and guide.targets:
                data.targets = [guide.targets[i] for i in kept]
            outcome.losses += self._fit(lm, data, run, index, guide)
            outcome.tokens += data.seen if guide is not None else data.tokens * self.epochs

    def _fit(
        self, lm: LM, data: _Pairs, run: AttackRun, index: int, guide: Guide | None = None
    ) -> list[LossPoint]:
        trainable = {name for name, p in lm.model.named_parameters() if p.requires_grad}
        model: Any = lm.model
        if self.lora_rank:
            model = _with_lora(lm, self.lora_rank, self.lora_alpha, derive(run.seed, "init", index))
        steps = self.epochs * math.ceil(len(data) / self.batch_size)
        every = max(1, steps // self.curve_points) if self.curve_points else 0
        curve = _Curve(lm, run.holdout if every else (), index, every)
        with tempfile.TemporaryDirectory() as scratch:
            trainer = _CompletionTrainer(
                model=model,
                args=self._arguments(scratch, steps, derive(run.seed, "shuffle", index) % 2**31),
                train_dataset=data,
                data_collator=lambda pairs: _collate(pairs, lm.pad),
                callbacks=[curve] if guide is None else [curve, _Renewal(lm, data, guide, steps)],
            )
            trainer.head, trainer.guide = lm.head, guide
            trainer.remove_callback(PrinterCallback)
            with fast_attention(lm):
                trainer.train()
        if self.lora_rank:
            lm.model = model.merge_and_unload()
        _unwrap(lm.model)
        for name, parameter in lm.model.named_parameters():
            parameter.requires_grad_(name in trainable)
        lm.model.eval()
        _check_finite(data.loss(lm), steps)
        lm.revision = f"{lm.revision}+{self.kind}"
        return curve.points

    def _arguments(self, scratch: str, steps: int, seed: int) -> TrainingArguments:
        cpu = not torch.cuda.is_available()
        return TrainingArguments(
            output_dir=scratch,
            num_train_epochs=self.epochs,
            learning_rate=self.lr,
            per_device_train_batch_size=self.batch_size,
            weight_decay=self.weight_decay,
            adam_beta2=0.98,
            max_grad_norm=1.0,
            lr_scheduler_type="cosine",
            warmup_steps=int(self.warmup * steps),
            logging_steps=max(1, steps // 20),
            logging_nan_inf_filter=False,  # would hide a NaN loss behind the last finite mean
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            use_cpu=cpu,
            bf16=self.bfloat16 and native_bfloat16(),
            optim="adamw_torch",
            seed=seed,
            data_seed=seed,
        )


class _CompletionTrainer(Trainer):  # type: ignore[misc]
    """Mean loss over labeled tokens, each weighted by its trace; only their logits are computed."""

    head: torch.nn.Module
    guide: Guide | None = None

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **_: Any
    ) -> Any:
        labels_BT = inputs["labels"]
        keep_BT = labels_BT[:, 1:] != IGNORE
        logits_NV = _logits(model, self.head, inputs).float()
        labels_N = labels_BT[:, 1:][keep_BT]
        weights_B = inputs.get("weights")
        if self.guide is not None:
            rows_N = torch.arange(len(labels_BT))[:, None].expand_as(keep_BT)[keep_BT]
            known = inputs.get("known", logits_NV[:0])
            target = Target(known, inputs.get("ids"), rows_N, inputs["own"], inputs["index"])
            loss = self.guide.loss(logits_NV, labels_N, target)
        elif weights_B is None:
            loss = cross_entropy(logits_NV, labels_N)
        else:
            loss_N = cross_entropy(logits_NV, labels_N, reduction="none")
            loss = (loss_N * weights_B[:, None].expand_as(keep_BT)[keep_BT]).mean()
        return (loss, {"logits": logits_NV}) if return_outputs else loss


def _logits(model: Any, head: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Logits [N, V] that predict the N labeled tokens, row after row.

    On a CPU, rows of like length go through the model together, so that little of what is computed is padding.
    """
    labels_BT, mask_BT = inputs["labels"], inputs["attention_mask"]
    whole = labels_BT.device.type != "cpu" or len(labels_BT) < 2 * SLICE_ROWS
    order_B = mask_BT.sum(1).argsort(descending=True, stable=True)
    parts = []
    for rows in [slice(None)] if whole else torch.split(order_B, SLICE_ROWS):
        mask_RT = mask_BT[rows]
        longest = mask_BT.shape[1] if whole else int(mask_RT.sum(1).max())
        with labeled_logits(head, labels_BT[rows, :longest]):
            out = model(input_ids=inputs["input_ids"][rows, :longest], attention_mask=mask_RT[:, :longest])
        parts.append(out.logits)
    if whole:
        return cast(torch.Tensor, parts[0])
    counts_B = (labels_BT[:, 1:] != IGNORE).sum(1)
    rows_N = order_B.repeat_interleave(counts_B[order_B])
    return torch.cat(parts)[rows_N.argsort(stable=True)]


class _Renewal(TrainerCallback):  # type: ignore[misc]
    """Tells the guide how far training is, and lets it put the student's own text in place of the teacher's."""

    def __init__(self, lm: LM, data: _Pairs, guide: Guide, steps: int) -> None:
        self.lm, self.data, self.guide, self.steps = lm, data, guide, steps

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.guide.progress = state.global_step / self.steps

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        model.eval()
        wrapped = _unwrap(self.lm.model)
        with torch.no_grad():
            renewed = self.guide.renew(self.lm, round(state.epoch or 0))
        vars(self.lm.model).update(wrapped)
        model.train()
        self.data.renew(self.lm, renewed)


class _Pairs(Dataset):  # type: ignore[type-arg]
    """Tokenized (prompt, completion) pairs with weights, and what a guide knows of each."""

    def __init__(self, lm: LM, traces: Sequence[Trace], max_length: int, weights: Sequence[float] = ()) -> None:
        prompts = lm.encode_many([t.prompt for t in traces])
        pairs = zip(prompts, completions(lm, traces), strict=True)
        self.pairs = [(a, b[: max(1, max_length - len(a))]) for a, b in pairs]
        self.weights = list(weights) or [1.0] * len(self.pairs)
        self.tokens = sum(len(a) + len(b) for a, b in self.pairs)
        self.seen = 0  # tokens of the epochs that a guide has begun
        self.sample = list(traces[:4])
        self.max_length = max_length
        self.targets: list[Exposure] = []
        self.own: dict[int, tuple[list[int], list[int], Exposure | None]] = {}

    def renew(self, lm: LM, renewed: Mapping[int, tuple[Trace, Exposure | None]]) -> None:
        """Use the student's own texts at some positions, the teacher's at all others."""
        prompts = lm.encode_many([trace.prompt for trace, _ in renewed.values()])
        texts = completions(lm, [trace for trace, _ in renewed.values()])
        rows = zip(renewed.items(), prompts, texts, strict=True)
        self.own = {i: (a, b[: max(1, self.max_length - len(a))], e) for (i, (_, e)), a, b in rows}
        self.seen += sum(len(row.prompt) + len(row.completion) for row in map(self.__getitem__, range(len(self))))

    def loss(self, lm: LM) -> float:
        """The loss on a few examples, to see that the student still works."""
        return nll(lm, self.sample)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Row:
        if index in self.own:
            prompt, completion, target = self.own[index]
            guided = None if target is None else target.first(len(completion))
            return Row(index, prompt, completion, 1.0, guided, own=True)
        prompt, completion = self.pairs[index]
        guided = self.targets[index].first(len(completion)) if self.targets else None
        return Row(index, prompt, completion, self.weights[index], guided)


class _Curve(TrainerCallback):  # type: ignore[misc]
    """Collects the training loss and, at a few points, the loss on clean holdout traces."""

    def __init__(self, lm: LM, holdout: Sequence[Trace], base: int, every: int) -> None:
        self.lm, self.holdout, self.base, self.every = lm, list(holdout), base, every
        self.points: list[LossPoint] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        _check_finite(float(loss), int(state.global_step))
        self.points.append(LossPoint(self.base, int(state.global_step), "train", float(loss)))

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self.holdout and state.global_step % self.every == 0:
            model.eval()
            wrapped = _unwrap(self.lm.model)
            loss = nll(self.lm, self.holdout)
            vars(self.lm.model).update(wrapped)
            model.train()
            self.points.append(LossPoint(self.base, int(state.global_step), "holdout", loss))


def _collate(rows: Sequence[Row], pad: int) -> dict[str, torch.Tensor]:
    batch = pad_batch([(row.prompt, row.completion) for row in rows], pad)
    found = {"input_ids": batch.ids_BT, "attention_mask": batch.mask_BT, "labels": batch.labels_BT}
    found["index"] = torch.tensor([row.place for row in rows])
    found["own"] = torch.tensor([row.own for row in rows])
    if any(row.weight != 1.0 for row in rows):
        found["weights"] = torch.tensor([row.weight for row in rows])
    targets = [row.target for row in rows if row.target is not None]
    if targets:
        found["known"] = torch.cat([target.known_TK for target in targets])
        ids = [target.ids_TK for target in targets if target.ids_TK is not None]
        if ids:
            found["ids"] = torch.cat(ids)
    return found


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise RunError(
            f"The student's training loss became {loss} at step {step}; "
            "lower the attack's learning rate, or check the released text and the base's weights."
        )


def _unwrap(model: Any) -> dict[str, Any]:
    """Take off (and return) accelerate's autocast wrapper: the student computes in its own precision."""
    return {name: vars(model).pop(name) for name in ("forward", "_original_forward") if name in vars(model)}


def _with_lora(lm: LM, rank: int, alpha: int, seed: int) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(lm.model, config)
