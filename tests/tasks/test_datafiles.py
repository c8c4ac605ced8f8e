from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from contract import check_task
from pydantic import ValidationError

from azeotrope.core import plugins
from azeotrope.core.errors import ConfigError, MissingError
from azeotrope.core.types import split_answer
from azeotrope.tasks import grading
from azeotrope.tasks.base import SPLITS
from azeotrope.tasks.datafiles import FileTask, Gsm8k, Math, Mmlu, split_of


@pytest.fixture(scope="session")
def data_dir() -> Path:
    default = Path(__file__).resolve().parents[2] / "../shared/data"
    found = Path(os.environ.get("AZEOTROPE_DATA", default))
    if not found.is_dir():
        pytest.skip("AZEOTROPE_DATA does not name a directory with gsm8k/ and math500/")
    return found


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def mmlu_rows(n: int) -> list[dict[str, Any]]:
    return [
        {
            "question": f"What is {i} + {i + 1}?",
            "choices": [str(2 * i + 1 + (k - i) % 4) for k in range(4)],
            "answer": i % 4,
            "subject": "elementary_mathematics",
        }
        for i in range(n)
    ]


def gsm_rows(n: int) -> list[dict[str, str]]:
    return [
        {"question": f"Double {i}.", "answer": f"2*{i}=<<2*{i}={2 * i}>>{2 * i}\n#### {2 * i}"} for i in range(n)
    ]


def test_contract_gsm8k(data_dir: Path) -> None:
    check_task(Gsm8k(path=str(data_dir / "gsm8k/test.jsonl")))


def test_contract_math(data_dir: Path) -> None:
    check_task(Math(path=str(data_dir / "math500/test.jsonl")))


def test_contract_mmlu(tmp_path: Path) -> None:
    check_task(Mmlu(path=write(tmp_path / "mmlu.jsonl", mmlu_rows(120))))


@pytest.mark.parametrize("name", ["gsm8k", "math", "mmlu"])
def test_registered(name: str) -> None:
    assert plugins.load("tasks", name).kind == name


@pytest.mark.parametrize(
    ("cls", "file", "n"),
    [
        (Gsm8k, "gsm8k/test.jsonl", 1319),
        (Gsm8k, "gsm8k/train_first2500.jsonl", 2500),
        (Math, "math500/test.jsonl", 500),
    ],
)
def test_every_gold_solution_is_right(data_dir: Path, cls: type[FileTask], file: str, n: int) -> None:
    task = cls(path=str(data_dir / file))
    items = list(task.items(test=False))
    assert len(items) == n
    problems = [task.to_problem(item) for item in items]
    assert len({problem.id for problem in problems}) == n
    traces = task.gold_traces(problems)
    assert len(traces) == n
    assert not any("<<" in trace.text for trace in traces)
    wrong = [p.id for p, t in zip(problems, traces, strict=True) if not task.grade(p, t.text).correct]
    assert wrong == []
    raw = (data_dir / file).read_text(encoding="utf-8").splitlines()
    column = "answer" if cls is Gsm8k else "solution"
    pairs = zip(problems, map(json.loads, raw), strict=True)
    assert [p.id for p, row in pairs if not task.grade(p, row[column]).correct] == []


def test_math_verify_alone_accepts_every_gold_answer(data_dir: Path) -> None:
    """Without the shortcuts for equal strings and plain numbers."""
    items = list(Math(path=str(data_dir / "math500/test.jsonl")).items(test=False))
    wrong = [i.answer for i in items if not grading._verified(i.answer, grading.last_boxed(i.solution) or "")]
    assert wrong == []


@pytest.mark.slow
def test_other_gold_answers_are_wrong(data_dir: Path) -> None:
    task = Math(path=str(data_dir / "math500/test.jsonl"))
    answers = sorted({item.answer for item in task.items(test=False)})
    accepted = [
        (gold, other)
        for step in (1, 7, 50)
        for gold, other in zip(answers, answers[step:] + answers[:step], strict=True)
        if grading.same_answer(gold, other)
    ]
    assert [pair for pair in accepted if grading.plain_number(pair[0]) is None] == []
    assert all("circ" in gold + other or "cm" in gold + other for gold, other in accepted), "only units differ"


def test_verdicts_on_real_model_output_agree_with_its_labels(data_dir: Path) -> None:
    path = data_dir / "traces_r1/thought_anchor_base_qwen14b.jsonl"
    if not path.is_file():
        pytest.skip("the data directory has no traces_r1/")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert {row["is_correct"] for row in rows} == {True, False}
    for row in rows:
        grade = grading.grade_math(row["gt_answer"], row["full_cot"])
        assert grade.correct == row["is_correct"], (row["item"], grade)


def test_gold_traces_close_their_reasoning(tmp_path: Path) -> None:
    task = Gsm8k(path=write(tmp_path / "a.jsonl", gsm_rows(40)))
    problem = task.problems("release", 1)[0]
    reasoning, answer = split_answer(task.gold_traces([problem])[0].text)
    assert "<<" not in reasoning
    assert "####" not in reasoning
    assert answer.strip() == f"\\boxed{{{problem.answer}}}"


def test_shares(data_dir: Path) -> None:
    task = Gsm8k(path=str(data_dir / "gsm8k/train_first2500.jsonl"), release_share=0.6)
    sizes = dict.fromkeys(SPLITS, 0)
    for item in task.items(test=False):
        sizes[split_of(item.text, 0.6)] += 1
    assert sum(sizes.values()) == 2500
    assert abs(sizes["release"] - 1500) < 100
    assert abs(sizes["test"] - sizes["holdout"]) < 100
    for split, size in sizes.items():
        assert len(task.problems(split, size)) == size
        with pytest.raises(ConfigError, match=f"has {size} problems in split '{split}'"):
            task.problems(split, size + 1)


def test_copies_of_a_problem_are_one_problem(tmp_path: Path) -> None:
    rows = gsm_rows(100)
    copies = [{**row, "question": f"  {row['question'].upper()}\n"} for row in rows]
    once = Gsm8k(path=write(tmp_path / "once.jsonl", rows))
    twice = Gsm8k(path=write(tmp_path / "twice.jsonl", rows + copies))
    for split in SPLITS:
        assert once.problems(split, 10) == twice.problems(split, 10)


def test_the_order_of_the_file_does_not_matter(tmp_path: Path) -> None:
    rows = gsm_rows(100)
    forward = Gsm8k(path=write(tmp_path / "f.jsonl", rows))
    backward = Gsm8k(path=write(tmp_path / "b.jsonl", rows[::-1]))
    assert forward.problems("release", 30, 5) == backward.problems("release", 30, 5)
    assert forward.problems("release", 30, 5) != forward.problems("release", 30, 6)


def test_a_test_file_keeps_its_problems_to_itself(tmp_path: Path) -> None:
    rows = gsm_rows(100)
    task = Gsm8k(path=write(tmp_path / "train.jsonl", rows), test_path=write(tmp_path / "test.jsonl", rows[:20]))
    assert len(task.problems("test", 20)) == 20
    texts = {p.meta["text"] for split in ("release", "holdout") for p in task.problems(split, 15)}
    assert texts.isdisjoint(row["question"] for row in rows[:20])
    check_task(task)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    task = Gsm8k(path=write(tmp_path / "a.jsonl", gsm_rows(50)))
    with pytest.raises(ConfigError, match="asked for"):
        task.problems("release", 100)
    write(tmp_path / "a.jsonl", gsm_rows(500))
    assert len(task.problems("release", 100)) == 100


@pytest.mark.parametrize(
    ("cls", "row", "message"),
    [
        (Gsm8k, '{"question": "a", "answer": "5"}', "does not end in '#### <number>'"),
        (Gsm8k, '{"question": "a"}', "the column 'answer' is missing"),
        (Gsm8k, '{"question": 5, "answer": "#### 5"}', "the column 'question' must be text and not empty"),
        (Gsm8k, '{"question": "\\ud800", "answer": "#### 5"}', "half of a surrogate pair"),
        (Gsm8k, "[1, 2]", "is not a JSON object"),
        (Gsm8k, "{", "is not JSON"),
        (Gsm8k, "[" * 100_000, "is not JSON"),
        (Math, '{"problem": "a", "solution": "b"}', r"no \\boxed"),
        (Math, '{"problem": "a"}', "the column 'solution' is missing"),
        (Mmlu, '{"question": "a", "choices": "b", "answer": 0}', "must be a list of strings"),
        (Mmlu, '{"question": "a", "choices": ["b"], "answer": 0}', "1 choices"),
        (Mmlu, '{"question": "a", "choices": ["b", "c"], "answer": 2}', "an index from 0 to 1"),
        (Mmlu, '{"question": "a", "choices": ["b", "c"], "answer": true}', "an index from 0 to 1"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, cls: type[FileTask], row: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(f"\n{row}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        cls(path=str(path)).problems("test", 1)
    assert f"{path}, line 2," in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"question": "é", "answer": "#### 5"}\n'.encode("latin-1"))
    with pytest.raises(ConfigError, match="line 1, is not JSON in UTF-8"):
        Gsm8k(path=str(path)).problems("test", 1)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"nowhere\.jsonl does not exist"):
        Gsm8k(path=str(tmp_path / "nowhere.jsonl")).problems("test", 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one of"),
        ({"path": "a", "hub": "b"}, "exactly one of"),
        ({"hub": "b", "test_path": "c"}, "'test_path' goes with 'path'"),
        ({"path": "a", "revision": "c"}, "go with 'hub'"),
        ({"path": "a", "prompt": "no place"}, "exactly once"),
        ({"path": "a", "release_share": 1.0}, "less than 1"),
    ],
)
def test_contradictory_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Gsm8k.model_validate(settings)


def test_unknown_split(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'test'"):
        Gsm8k(path=write(tmp_path / "a.jsonl", gsm_rows(5))).problems("tests", 1)


def test_math_reads_the_box_where_there_is_no_answer_column(tmp_path: Path) -> None:
    rows = [{"problem": f"Halve {i}", "solution": f"$\\boxed{{\\frac{{{i}}}{{2}}}}$."} for i in range(20)]
    task = Math(path=write(tmp_path / "a.jsonl", rows))
    problem = task.problems("release", 1)[0]
    assert problem.answer.startswith("\\frac{")
    assert task.grade(problem, f"\\boxed{{{problem.answer}}}").correct
    rows = [{"problem": f"p{i}", "answer": "1"} for i in range(20)]
    only_answer = Math(path=write(tmp_path / "b.jsonl", rows))
    assert only_answer.gold_traces(only_answer.problems("release", 3)) == []


def test_mmlu_prompt_letters_and_grading(tmp_path: Path) -> None:
    rows = [*mmlu_rows(40), {"question": "Which?", "choices": ["x", "y"], "answer": "b"}]
    task = Mmlu(path=write(tmp_path / "a.jsonl", rows), release_share=0.9)
    for problem in task.problems("release", 20):
        choices = problem.meta["choices"]
        right = choices["ABCD".index(problem.answer)]
        assert f"\n{problem.answer}. {right}\n" in problem.prompt
        assert task.grade(problem, f"The answer is ({problem.answer}).").correct
        assert not task.grade(problem, "The answer is (E).").correct


class FakeHub(ModuleType):
    """Stands in for the `datasets` package."""

    def __init__(self, load: Callable[..., Any]) -> None:
        super().__init__("datasets")
        self.load_dataset = load


def test_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load(name: str, config: str | None, *, split: str, revision: str | None) -> list[dict[str, str]]:
        calls.append(SimpleNamespace(name=name, config=config, split=split, revision=revision))
        return gsm_rows(120)[:20] if split == "test" else gsm_rows(120)

    monkeypatch.setitem(sys.modules, "datasets", FakeHub(load))
    task = Gsm8k(hub="somebody/gsm8k", config="main", revision="abc")
    check_task(task)
    assert {call.split for call in calls} == {"train", "test"}
    assert {(call.name, call.config, call.revision) for call in calls} == {("somebody/gsm8k", "main", "abc")}
    whole = Gsm8k(hub="somebody/gsm8k", test_split=None)
    assert not whole.has_test_source
    check_task(whole)


def test_hub_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingError, match=r"'datasets'.*azeotrope\[hub\]"):
        Gsm8k(hub="somebody/none").problems("test", 1)


def test_hub_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: Any, **settings: Any) -> None:
        raise ConnectionError("no route\nmore detail")

    monkeypatch.setitem(sys.modules, "datasets", FakeHub(load))
    with pytest.raises(MissingError, match=r"'somebody/gone' could not be loaded \(no route\)"):
        Gsm8k(hub="somebody/gone").problems("test", 1)


def test_hub_row_that_is_malformed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", FakeHub(lambda *args, **settings: [{"question": "a"}]))
    with pytest.raises(ConfigError, match=r"somebody/bad \(test\), row 1, is not a gsm8k row"):
        Gsm8k(hub="somebody/bad").problems("test", 1)
