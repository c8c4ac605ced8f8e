"""What defenses that train an edit of the LM head share: settings, training once per bench, storing, serving.

Shapes: see `models/head_training.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from azeotrope.core.errors import ConfigError
from azeotrope.core.seeds import derive, fingerprint
from azeotrope.defenses.base import Bench, LogitDefense
from azeotrope.models.corpus import Corpus, read
from azeotrope.models.decode import LogitRule
from azeotrope.models.head_edit import EditRule, HeadEdit, edit_of, merged
from azeotrope.models.head_training import Objective, Trained, Training, train
from azeotrope.models.learnable import Learnable, learnable
from azeotrope.models.lm import LM, check_pair
from azeotrope.models.sample import generate

Accuracy = Callable[[HeadEdit | LogitRule | None], float]


class TrainedHead(LogitDefense):
    """An edit of the head trained by CE + λ·(what the method asks for); the dial `scale` multiplies it.

    The edit is trained once for all strengths of an arm and kept on the bench; studies store it with releases.
    """

    dial: ClassVar[str] = "scale"
    sweep: ClassVar[tuple[float, ...]] = (0.5, 1.0, 1.5)
    unlearned: ClassVar[frozenset[str]] = frozenset({"scale", "serve"})  # settings that training does not read
    trained_as: ClassVar[str] = ""  # the kind whose edits, to the letter, a control begins with

    scale: float = Field(default=1.0, ge=0, description="how much of the trained edit is applied (1: all)")
    lam: float = Field(default=1.0, ge=0, description="λ; 0 is the control, plain training on the teacher's text")
    rank: int = Field(default=0, ge=0, description="rank of a map of the logits; 0: any change of the head, ΔW")
    holdout: int = Field(default=512, ge=4, description="teacher traces to train on; a quarter is held out")
    epochs: int = Field(default=20, ge=1)
    lr: float = Field(default=3e-4, gt=0)
    batch_size: int = Field(default=32, ge=1, description="traces a step")
    checks: int = Field(default=5, ge=1, description="checkpoints whose teacher accuracy is measured")
    problems: int = Field(default=128, ge=1, description="holdout problems that measure it")
    keep: float = Field(default=0.01, ge=0, description="accuracy that the chosen checkpoint may cost, at scale 1")
    serve: Literal["merged", "unmerged"] = Field(default="merged", description="as the head, or logit by logit")

    @property
    @abstractmethod
    def others(self) -> tuple[str, ...]:
        """References of the further models that the objective reads; they must share the teacher's vocabulary."""

    @abstractmethod
    def objective(self, bench: Bench, corpus: Corpus, head: Learnable, seed: int) -> Objective:
        """What is added to the cross-entropy. Raises ConfigError where the corpus does not allow it."""

    def finished(
        self,
        found: Trained,
        objective: Objective,
        training: Training,
        accuracy: Accuracy,
        seed: int,
    ) -> Trained:
        """What is made of a trained edit before it is used: nothing, unless a control takes something from it."""
        return found

    def bind(self, bench: Bench) -> LogitRule:
        """Train the edit, or take the one that was trained for another strength on this bench."""
        (edit,) = self.trained(bench)
        return EditRule(edit.scaled(self.scale), bench.sampling.divisor, merge=self.serve == "merged")

    def fold(self, bench: Bench) -> LM:
        """See `LogitDefense.fold`."""
        if self.serve != "merged":
            raise ConfigError(
                f"'{self.label}' is served logit by logit; set serve=merged to fold it into the head."
            )
        (edit,) = self.trained(bench)
        return merged(bench.teacher, edit.scaled(self.scale))

    def trained(self, bench: Bench, count: int = 1) -> list[HeadEdit]:
        """`count` edits at scale 1 that differ in their seeds; kept on the bench, and with a release."""
        keys = [self.key(i) for i in range(count)]
        missing = [i for i, key in enumerate(keys) if key not in bench.fitted]
        for i, found in zip(missing, self._train(bench, missing), strict=True):
            bench.fitted[keys[i]], bench.memory[keys[i]] = found.edit.tensors(), found.told()
        told = [bench.memory[key] for key in keys if key in bench.memory]
        if told:
            bench.notes[self.kind] = self.noted(told)
        bench.used.update(keys)
        return [edit_of(bench.fitted[key]) for key in keys]

    def key(self, index: int = 0) -> str:
        """The name under which edit number `index` is kept: the settings that training reads."""
        settings = self.model_dump(exclude=set(self.unlearned), mode="json")
        return f"{self.kind}-{fingerprint(settings)}" + (f"-{index}" if index else "")

    def noted(self, told: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What the record of an arm says, given what was measured of each edit."""
        return told[0]

    def _train(self, bench: Bench, indices: Sequence[int]) -> list[Trained]:
        """Train the edits with these numbers. The teacher and the others read the traces once for all of them."""
        if not indices:
            return []
        seeds = [derive(bench.seed, self.trained_as or self.kind, *([i] if i else [])) for i in indices]
        heads = [learnable(bench.teacher, self.rank, seed) for seed in seeds]
        others = [bench.model(ref) for ref in self.others]
        for other in others:  # before the teacher writes its traces, which takes long
            check_pair(bench.teacher, other)
        corpus = read(bench.teacher, others, bench.holdout(self.holdout))
        training = Training(
            lam=self.lam,
            epochs=self.epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            temperature=bench.sampling.divisor,
            checks=self.checks,
            keep=self.keep,
        )
        accuracy = self._accuracy(bench)
        found = []
        for head, seed in zip(heads, seeds, strict=True):
            objective = self.objective(bench, corpus, head, seed)
            trained = train(objective, training, seed=seed, accuracy=accuracy)
            found.append(self.finished(trained, objective, training, accuracy, seed))
        return found

    def _accuracy(self, bench: Bench) -> Accuracy:
        """The teacher's accuracy on holdout problems under an edit at scale 1, or a rule that serves it.

        Without one it is measured once.
        """
        task, sampling = bench.task, bench.sampling
        problems = task.problems("holdout", self.problems, derive(bench.seed, "checks"))
        clean: list[float] = []

        def accuracy(edit: HeadEdit | LogitRule | None) -> float:
            if edit is None and clean:
                return clean[0]
            rule = EditRule(edit, sampling.divisor) if isinstance(edit, HeadEdit) else edit
            rules = () if rule is None else (rule,)
            seed = derive(bench.seed, "check")
            traces = generate(bench.teacher, problems, task, sampling, seed=seed, rules=rules)
            right = [task.grade(p, t.text).correct for p, t in zip(problems, traces, strict=True)]
            found = sum(right) / max(1, len(right))
            if edit is None:
                clean.append(found)
            return found

        return accuracy
