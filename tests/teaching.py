"""A server that answers the embedded lookup task with its gold traces, and studies whose teacher it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from azeotrope.core.seeds import derive
from azeotrope.core.types import Problem
from azeotrope.models.conduct import questions
from azeotrope.study.asking import HOLDOUT_TRACES, questionnaire
from azeotrope.study.config import parse_study
from azeotrope.study.plan import make_plan
from azeotrope.study.service import bench_of
from azeotrope.study.specs import RELEASE, ReleaseSpec
from azeotrope.study.stages import ModelStages
from azeotrope.tasks.lookup import Lookup
from serving import Answer, Asked, chat

NOBODY = "https://nobody.invalid/v1#gold"
PRICES = "price_in=1&price_out=10"  # per million
RELEASED, TESTED, CONDUCT = 12, 8, 2
ASKED = RELEASED + TESTED + HOLDOUT_TRACES + 4 * CONDUCT + RELEASED  # the last are asked once more, as a control
ALL_TEXT = ("traceguard", "summary", "answer_only", "hide_reasoning", "random_sentences")
QUICK = {"epochs": 1, "curve_points": 0}


def study(teacher: str = NOBODY, **changes: Any) -> dict[str, Any]:
    """The smallest study that has everything: 12 traces, 8 test problems, one student trained for an epoch."""
    return {
        "name": "paid",
        "teacher": teacher,
        "tasks": [{"kind": "lookup"}],
        "release": {"n": RELEASED},
        "defenses": [{"kind": "traceguard", "budget": 0.3}],
        "attacks": [{"kind": "sft", **QUICK}],
        "students": [{"family": "embedded/student-llama", "bases": 1}],
        "detectors": [],
        "evaluation": {"problems": TESTED, "conduct": CONDUCT, "diffs": 1, "max_new_tokens": 16},
        "analysis": {"replicates": 100},
        **changes,
    }


def write_study(path: Path, teacher: str, **changes: Any) -> Path:
    """The same as a file."""
    path.write_text(yaml.safe_dump(study(teacher, **changes)), encoding="utf-8")
    return path


def reference(url: str, folder: Path, *options: str) -> str:
    """The teacher of a study: tries once more after a failure, and keeps its cache in `folder`."""
    return f"{url}#gold?" + "&".join([f"cache={folder}/cache.sqlite", "retries=1", "backoff=0.001", *options])


def releases(**changes: Any) -> list[ReleaseSpec]:
    """The release steps of a study, the undefended one first."""
    steps = make_plan(parse_study(study(**changes)), ModelStages()).of(RELEASE)
    return [step.spec for step in steps if isinstance(step.spec, ReleaseSpec)]


def asked_in(spec: ReleaseSpec) -> list[Problem]:
    """Every problem that a teacher is asked."""
    bench = bench_of(spec)
    found = questionnaire(spec, bench)
    tests = found.tests.problems
    conduct = questions(bench.task, tests, spec.evaluation.conduct, derive(spec.seed, "conduct")).all
    return [*found.release.problems, *tests, *conduct, *bench.holdout_problems(HOLDOUT_TRACES)[0]]


def gold(problems: Sequence[Problem]) -> Callable[[Asked], Answer]:
    """Answers by gold traces; a prompt that nobody should ask is refused. A word counts as a token."""
    texts = {p.prompt: t.text for p, t in zip(problems, Lookup().gold_traces(problems), strict=True)}

    def answer(asked: Asked) -> Answer:
        if asked.prompt not in texts:
            return Answer({"error": f"nobody should ask {asked.prompt!r}"}, 400)
        text = texts[asked.prompt]
        return chat(text, tokens=(len(asked.prompt.split()), len(text.split())))

    return answer
