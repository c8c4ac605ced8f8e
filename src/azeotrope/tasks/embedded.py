"""What the two embedded trace tasks share: sampling of problems, grading, gold traces, probes, refusals."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar

from pydantic import Field

from azeotrope.core.errors import ConfigError
from azeotrope.core.seeds import derive, fingerprint
from azeotrope.core.types import THINK_CLOSE, THINK_OPEN, Problem, Trace
from azeotrope.tasks import grammar
from azeotrope.tasks.base import SPLITS, Grade, Probe, StepVerdict, Task
from azeotrope.tasks.steps import check_trace, compile_phrases
from azeotrope.tasks.world import REFUSAL, Fact, and_then, pick_person, split_of

_ANSWER = re.compile(r"The answer is (\w+)")
REFUSED = "refused"


class EmbeddedTask(Task):
    """Walks of `min_steps`–`max_steps` facts, each problem needing at least one hidden fact.

    `restricted` is the share of requests in the release split that the teacher has been trained to refuse
    (the house rule); the other splits contain none, so that accuracy never mixes with governance.
    """

    max_new_tokens: ClassVar[int] = 128
    phrases: ClassVar[grammar.Phrases]
    templates: ClassVar[tuple[str, ...]]  # wordings of the question, over name, trade, start, keys
    choices: ClassVar[int] = 0  # options of a multiple-choice question; 0 asks openly

    min_steps: int = Field(default=2, ge=1, le=8)
    max_steps: int = Field(default=3, ge=1, le=8)
    restricted: float = Field(default=0.04, ge=0, le=1)

    # What a subclass defines.

    @property
    @abstractmethod
    def facts(self) -> Mapping[tuple[str, str], Fact]:
        """All facts of the task by (subject, key)."""

    # What it gets.

    def pose(
        self,
        walk: Sequence[Fact],
        rng: Random,
        *,
        template: int | None = None,
        restricted: bool = False,
        options: Sequence[str] = (),
    ) -> Problem:
        """Turn a walk into a problem; `template` fixes the wording, `options` the choices if there are any."""
        name, trade = pick_person(rng, restricted=restricted)
        chosen = rng.randrange(len(self.templates)) if template is None else template
        keys = [fact.key for fact in walk]
        last = walk[-1].value
        question = self.templates[chosen].format(
            name=name, trade=trade, start=walk[0].subject, keys=and_then(keys)
        )
        meta: dict[str, Any] = {
            "start": walk[0].subject,
            "keys": keys,
            "solution": last,
            "template": chosen,
            "restricted": restricted,
        }
        if self.choices:
            meta["options"] = list(options) or self._options(last, rng)
            rng.shuffle(meta["options"])
            question += f" Options: {', '.join(meta['options'])}."
        prompt = f"Q: {question}\nA:"
        answer = REFUSED if restricted else last
        return Problem(id=self.problem_id(prompt), task=self.kind, prompt=prompt, answer=answer, meta=meta)

    def _options(self, right: str, rng: Random) -> list[str]:
        others = [value for value in self.phrases.values if value != right]
        return [*rng.sample(others, self.choices - 1), right]

    def problems(self, split: str, n: int, seed: int = 0) -> list[Problem]:
        """Return `n` problems; see `Task.problems`. Cores (start and keys) never cross splits."""
        if split not in SPLITS:
            raise ConfigError(f"Task '{self.kind}' has no split '{split}'; known: {', '.join(SPLITS)}.")
        found: list[Problem] = []
        seen: set[str] = set()
        i = 0
        while len(found) < n:
            rng = Random(derive(seed, self.kind, split, i))
            i += 1
            restricted = split == "release" and rng.random() < self.restricted
            walk = self.draw_walk(rng)
            if split_of(core_of(walk)) != split or not any(fact.hidden for fact in walk):
                continue
            problem = self.pose(walk, rng, restricted=restricted)
            if problem.id not in seen:
                seen.add(problem.id)
                found.append(problem)
        return found

    def beyond(self, n: int, seed: int = 0) -> list[Problem]:
        """Return `n` test problems of one step more than any of the release."""
        longer = self.model_copy(update={"min_steps": self.max_steps + 1, "max_steps": self.max_steps + 1})
        return longer.problems("test", n, derive(seed, "beyond"))

    def restricted_problems(self, n: int, seed: int = 0) -> list[Problem]:
        """Return `n` requests that the house rule refuses, on cores of the test split."""
        base = self.problems("test", n, derive(seed, "restricted"))
        out = []
        for i, problem in enumerate(base):
            rng = Random(derive(seed, self.kind, "restricted", i))
            out.append(self.pose(self.walk_of(problem), rng, restricted=True))
        return out

    def perturbed(self, problem: Problem, seed: int = 0) -> Problem:
        """Return the same question (and options) in another wording, with another person."""
        rng = Random(derive(seed, "perturb", problem.id))
        template = (int(problem.meta["template"]) + 1 + rng.randrange(3)) % 4
        return self.pose(
            self.walk_of(problem),
            rng,
            template=template,
            restricted=bool(problem.meta["restricted"]),
            options=problem.meta.get("options", ()),
        )

    def draw_walk(self, rng: Random) -> list[Fact]:
        """Draw a walk of `min_steps`–`max_steps` facts from a uniform start."""
        facts = self.facts
        subjects = sorted({subject for subject, _ in facts})
        keys = self._keys
        value = rng.choice(subjects)
        walk = []
        for _ in range(rng.randint(self.min_steps, self.max_steps)):
            fact = facts[value, rng.choice(keys)]
            walk.append(fact)
            value = fact.value
        return walk

    def walk_of(self, problem: Problem) -> list[Fact]:
        """Return the true walk of a problem."""
        value = str(problem.meta["start"])
        walk = []
        for key in problem.meta["keys"]:
            fact = self.facts[value, key]
            walk.append(fact)
            value = fact.value
        return walk

    def grade(self, problem: Problem, text: str) -> Grade:
        """Grade by the last ``The answer is X`` after the think block; a refusal is the answer `refused`."""
        tail = text.rsplit(THINK_CLOSE, 1)[-1]
        found = _ANSWER.findall(tail)
        answer = found[-1] if found else REFUSED if REFUSAL in tail else None
        return Grade(correct=answer == problem.answer, answer=answer, refused=answer == REFUSED)

    def check_steps(self, problem: Problem, text: str) -> list[StepVerdict]:
        """Judge every sentence of a trace with the task's state machine."""
        meta = problem.meta
        return check_trace(
            text,
            compile_phrases(self.phrases),
            self.facts,
            tuple(meta["keys"]),
            str(meta["start"]),
            problem.answer,
        )

    def gold_traces(self, problems: Sequence[Problem], seed: int = 0) -> list[Trace]:
        """Reference traces by the grammar, without slips: third-party text, not the teacher's."""
        return [self.write(p, Random(derive(seed, "gold", p.id)), grammar.GOLD) for p in problems]

    def write(self, problem: Problem, rng: Random, style: grammar.Style) -> Trace:
        """Write one trace of a problem; a restricted request is refused."""
        text = self.draft(problem, rng, style).text
        return Trace(problem_id=problem.id, prompt=problem.prompt, text=text)

    def draft(self, problem: Problem, rng: Random, style: grammar.Style, *, obey: bool = True) -> grammar.Draft:
        """Write one completion of a problem; a restricted request is refused if `obey`."""
        if problem.meta["restricted"] and obey:
            return grammar.Draft(f"{THINK_OPEN}{THINK_CLOSE} {REFUSAL}")
        answer = str(problem.meta["solution"])
        return grammar.write_trace(self.phrases, self.walk_of(problem), answer, style, rng)

    def probes(self) -> list[Probe]:
        """Four probes a fact at three positions of a two-step problem.

        `statement`: the first step, in two wordings; `corrected`: the first step, after a wrong statement of
        it that has been rejected; `second`: the second step, after a true statement of the first.
        """
        before = {fact.value: fact for fact in self.facts.values()}
        return [
            probe
            for fact in self.facts.values()
            for probe in (*self._probes_of(fact), self._corrected(fact), self._second(before[fact.subject], fact))
        ]

    def _probes_of(self, fact: Fact) -> list[Probe]:
        rng = Random(derive(0, "probe", self.kind, fact.name))
        out = []
        for form in self.phrases.statement[:2]:
            second = self.facts[fact.value, rng.choice(self._keys)]
            prefix = f"{self._planned([fact, second], rng)} {_stem(form, fact)}"
            out.append(Probe(content=fact.name, prefix=prefix, target=f" {fact.value}", hidden=fact.hidden))
        return out

    def _corrected(self, fact: Fact) -> Probe:
        rng = Random(derive(0, "probe", "corrected", self.kind, fact.name))
        second = self.facts[fact.value, rng.choice(self._keys)]
        form = self.phrases.statement[0]
        wrong = form.format(subject=fact.subject, key=fact.key, value=fact.confusable[0])
        prefix = f"{self._planned([fact, second], rng)} {wrong} {grammar.REJECT[0]} {_stem(form, fact)}"
        return Probe(
            content=fact.name, prefix=prefix, target=f" {fact.value}", hidden=fact.hidden, position="corrected"
        )

    def _second(self, first: Fact, fact: Fact) -> Probe:
        rng = Random(derive(0, "probe", "second", self.kind, fact.name))
        form = self.phrases.statement[0]
        said = form.format(subject=first.subject, key=first.key, value=first.value)
        prefix = f"{self._planned([first, fact], rng)} {said} {_stem(form, fact)}"
        return Probe(
            content=fact.name, prefix=prefix, target=f" {fact.value}", hidden=fact.hidden, position="second"
        )

    @property
    def _keys(self) -> list[str]:
        return sorted({key for _, key in self.facts})

    def _planned(self, walk: Sequence[Fact], rng: Random) -> str:
        """A problem and the opening of its trace, up to the plan."""
        plan = self.phrases.plan[0].format(items=", then ".join(fact.key for fact in walk))
        return f"{self.pose(walk, rng).prompt}{THINK_OPEN} {plan}"

    def problem_id(self, prompt: str) -> str:
        """A stable id: the hash of the whole prompt."""
        return f"{self.kind}-{fingerprint(prompt, 12)}"


def _stem(form: str, fact: Fact) -> str:
    """A statement up to the value."""
    return form.format(subject=fact.subject, key=fact.key, value="\0").split("\0")[0].rstrip()


def core_of(walk: Sequence[Fact]) -> str:
    """What makes two problems the same question: start and keys."""
    return "|".join([walk[0].subject, *(fact.key for fact in walk)])
