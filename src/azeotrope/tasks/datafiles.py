r"""GSM8K, MATH and MMLU from local JSONL files or from the datasets hub. No torch.

A split is decided by a hash of the problem's text, so the splits never overlap, whatever the file's order,
and a problem that occurs twice is one problem (the first row counts). With a test file, a problem of that
file is only ever in the test split.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from string import ascii_uppercase
from typing import Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from azeotrope.core.errors import ConfigError, MissingError, nearest
from azeotrope.core.seeds import derive, fingerprint
from azeotrope.core.types import THINK_CLOSE, THINK_OPEN, Problem, Trace
from azeotrope.tasks.base import SPLITS, Grade, Task
from azeotrope.tasks.grading import grade_choice, grade_math, last_boxed

MATH_PROMPT = (
    "Work through the following problem one step at a time. Finish with the final answer, fully evaluated "
    "and with its unit if it has one, written as \\boxed{...}.\n\n{problem}\n"
)
CHOICE_PROMPT = (
    "Work through the following question one step at a time. Finish with the letter of the correct option, "
    "written as \\boxed{...}.\n\n{problem}\n"
)
PROMPT_NOTE = "template; {problem} stands for the problem's text"

_PLACE = "{problem}"
_CALCULATOR = re.compile(r"<<[^<>\n]*>>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One row, understood: the problem as the model sees it, its gold answer, a solution if there is one."""

    text: str
    answer: str
    solution: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


class PromptedTask(Task):
    """A task whose prompts are a template around the problem's text."""

    prompt: str = Field(default=MATH_PROMPT, description=PROMPT_NOTE)

    @field_validator("prompt")
    @classmethod
    def _has_place(cls, value: str) -> str:
        if value.count(_PLACE) != 1:
            raise ValueError(f"the template must contain {_PLACE} exactly once")
        return value

    def to_problem(self, item: Item) -> Problem:
        """Build the problem; its id depends on its text alone."""
        return Problem(
            id=f"{self.kind}-{fingerprint(text_key(item.text))}",
            task=self.kind,
            prompt=self.prompt.replace(_PLACE, item.text),
            answer=item.answer,
            meta={"text": item.text, "solution": item.solution, **item.meta},
        )

    def grade(self, problem: Problem, text: str) -> Grade:
        """Grade the final answer with math-verify (see `azeotrope.tasks.grading`)."""
        return grade_math(problem.answer, text)

    def gold_traces(self, problems: Sequence[Problem], seed: int = 0) -> list[Trace]:
        """The solutions that come with the data, as think block and boxed answer; `seed` changes nothing."""
        return [
            Trace(
                problem_id=problem.id,
                prompt=problem.prompt,
                text=f"{THINK_OPEN}\n{problem.meta['solution']}\n{THINK_CLOSE}\n\n\\boxed{{{problem.answer}}}",
                seed=seed,
                meta={"source": "reference solution"},
            )
            for problem in problems
            if problem.meta.get("solution")
        ]


class FileTask(PromptedTask):
    """Problems from a JSONL file or a hub data set; subclasses say what a row means."""

    max_new_tokens: ClassVar[int] = 1024

    path: str | None = Field(default=None, description="local JSONL file")
    test_path: str | None = Field(default=None, description="local JSONL file with the test split")
    hub: str | None = Field(default=None, description="data set name on the datasets hub")
    config: str | None = Field(default=None, description="hub configuration (subset)")
    revision: str | None = Field(default=None, description="hub revision; pin it for a reproducible study")
    train_split: str = Field(default="train", description="hub split that becomes release and holdout")
    test_split: str | None = Field(
        default="test", description="hub split that becomes test; null to cut it off the train split"
    )
    release_share: float = Field(
        default=0.7,
        gt=0,
        lt=1,
        description="share for the release split; the rest is holdout, or half holdout and half test if "
        "there is no test source",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("exactly one of 'path' (a local file) and 'hub' (a hub name) must be set")
        if self.hub is not None and self.test_path is not None:
            raise ValueError("'test_path' goes with 'path'; use 'test_split' with 'hub'")
        if self.path is not None and (self.config is not None or self.revision is not None):
            raise ValueError("'config' and 'revision' go with 'hub', not with 'path'")
        return self

    @abstractmethod
    def parse(self, row: Mapping[str, Any]) -> Item:
        """Understand one row. Raises ValueError with a clause that says what is wrong with it."""

    def problems(self, split: str, n: int, seed: int = 0) -> list[Problem]:
        """Return `n` problems in an order set by `seed`. Raises ConfigError if the split has fewer."""
        check_split(split)
        pool = _pools(self, self._stamp())[split]
        if n > len(pool):
            source = self.path or self.hub
            raise ConfigError(
                f"'{self.kind}' has {len(pool)} problems in split '{split}' of {source}, but {n} were asked "
                "for; ask for fewer, change 'release_share' or use a larger file."
            )
        return sorted(pool, key=lambda problem: derive(seed, "order", problem.id))[:n]

    def _stamp(self) -> tuple[int, ...]:
        """What changes when a file changes, so that a cached pool is never stale."""
        stats = [_existing(path).stat() for path in (self.path, self.test_path) if path is not None]
        return tuple(number for stat in stats for number in (stat.st_mtime_ns, stat.st_size))

    @property
    def has_test_source(self) -> bool:
        """Whether the test split comes from a file or hub split of its own."""
        return self.test_path is not None or (self.hub is not None and self.test_split is not None)

    def items(self, *, test: bool) -> Iterator[Item]:
        """Yield the items of the main source, or of the separate test source if there is one."""
        path, split = (self.test_path, self.test_split) if test else (self.path, self.train_split)
        rows: Iterable[tuple[str, Mapping[str, Any]]] = ()
        if path is not None:
            rows = _file_rows(_existing(path))
        elif self.hub is not None and split is not None:
            rows = _hub_rows(self.hub, self.config, self.revision, split)
        for where, row in rows:
            try:
                yield self.parse(row)
            except ValueError as error:
                raise ConfigError(
                    f"{where} is not a {self.kind} row: {error}; correct the row or remove it."
                ) from None


class Gsm8k(FileTask):
    """GSM8K: grade-school word problems; columns `question` and `answer` (solution, then ``#### number``)."""

    kind: ClassVar[str] = "gsm8k"
    summary: ClassVar[str] = "Grade-school maths word problems (GSM8K) from a file or the hub"

    def parse(self, row: Mapping[str, Any]) -> Item:
        """Understand a row with `question` and `answer`."""
        solution, mark, answer = _string(row, "answer").rpartition("####")
        if not mark or not answer.strip():
            raise ValueError("the column 'answer' does not end in '#### <number>'")
        return Item(
            text=_string(row, "question").strip(),
            answer=answer.strip().replace(",", ""),
            solution=_CALCULATOR.sub("", solution).strip(),
        )


class Math(FileTask):
    r"""MATH: competition problems; columns `problem`, `solution` and, if present, `answer`.

    Without `answer`, the gold answer is the last ``\boxed{}`` of the solution.
    """

    kind: ClassVar[str] = "math"
    summary: ClassVar[str] = "Competition mathematics (MATH, MATH-500) from a file or the hub"
    max_new_tokens: ClassVar[int] = 2048

    def parse(self, row: Mapping[str, Any]) -> Item:
        """Understand a row with `problem` and `answer` or `solution`."""
        solution = _string(row, "solution") if row.get("solution") is not None or "answer" not in row else ""
        answer = _string(row, "answer") if row.get("answer") is not None else last_boxed(solution)
        if not answer or not answer.strip():
            raise ValueError("it has no column 'answer' and its solution has no \\boxed{...}")
        meta = {key: str(row[key]) for key in ("subject", "type", "level") if row.get(key) is not None}
        return Item(
            text=_string(row, "problem").strip(), answer=answer.strip(), solution=solution.strip(), meta=meta
        )


class Mmlu(FileTask):
    """MMLU: multiple choice; columns `question`, `choices` (a list) and `answer` (an index or a letter)."""

    kind: ClassVar[str] = "mmlu"
    summary: ClassVar[str] = "Multiple-choice knowledge questions (MMLU) from a file or the hub"

    prompt: str = Field(default=CHOICE_PROMPT, description=PROMPT_NOTE)

    def parse(self, row: Mapping[str, Any]) -> Item:
        """Understand a row with `question`, `choices` and `answer`."""
        choices = row.get("choices")
        if not isinstance(choices, list | tuple) or not all(isinstance(choice, str) for choice in choices):
            raise ValueError("the column 'choices' must be a list of strings")
        if not 2 <= len(choices) <= len(ascii_uppercase):
            raise ValueError(f"it has {len(choices)} choices; 2 to {len(ascii_uppercase)} are possible")
        letters = ascii_uppercase[: len(choices)]
        lines = [f"{letter}. {choice.strip()}" for letter, choice in zip(letters, choices, strict=True)]
        meta: dict[str, Any] = {"choices": list(choices)}
        if row.get("subject"):
            meta["subject"] = str(row["subject"])
        text = "\n".join([_string(row, "question").strip(), *lines])
        return Item(text=text, answer=_letter(row.get("answer"), letters), meta=meta)

    def grade(self, problem: Problem, text: str) -> Grade:
        """Grade the chosen letter."""
        return grade_choice(problem.answer, text, problem.meta["choices"])


def text_key(text: str) -> str:
    """What two copies of one problem share: the text without differences in white space and case."""
    return " ".join(text.split()).casefold()


def split_of(text: str, release_share: float, *, test: bool = True) -> str:
    """Return the one split a problem's text belongs to: what is not release is holdout, or half test."""
    digest = hashlib.sha256(f"split/{text_key(text)}".encode(errors="surrogatepass")).digest()
    place = int.from_bytes(digest[:8], "little") / 2**64
    if place < release_share:
        return "release"
    return "test" if test and place >= (1 + release_share) / 2 else "holdout"


def check_split(split: str) -> None:
    """Raise ConfigError unless `split` is one of `SPLITS`."""
    if split not in SPLITS:
        raise ConfigError(f"There is no split '{split}'.{nearest(split, SPLITS)}")


@lru_cache(maxsize=8)
def _pools(task: FileTask, stamp: tuple[int, ...]) -> dict[str, tuple[Problem, ...]]:
    """All problems of a task by split, each once."""
    pools: dict[str, dict[str, Problem]] = {split: {} for split in SPLITS}
    for item in task.items(test=True):
        problem = task.to_problem(item)
        pools["test"].setdefault(problem.id, problem)
    apart = frozenset(pools["test"])
    for item in task.items(test=False):
        problem = task.to_problem(item)
        if problem.id not in apart:
            split = split_of(item.text, task.release_share, test=not task.has_test_source)
            pools[split].setdefault(problem.id, problem)
    return {split: tuple(pool.values()) for split, pool in pools.items()}


def _existing(path: str) -> Path:
    found = Path(path).expanduser()
    if not found.is_file():
        raise MissingError(
            f"The data file {path} does not exist; correct 'path' or 'test_path', or put the file there."
        )
    return found


def _file_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield ("file, line N", row) for every line that is not blank."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number},"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise ConfigError(f"{where} is not JSON in UTF-8; correct the line or remove it.") from None
            if not isinstance(row, dict):
                raise ConfigError(f"{where} is not a JSON object; write one object a line.")
            yield where, row


def _hub_rows(
    name: str, config: str | None, revision: str | None, split: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield ("hub name split, row N", row) of a data set on the hub."""
    try:
        from datasets import load_dataset
    except ModuleNotFoundError as error:
        raise MissingError(
            f"Reading '{name}' from the hub needs the package '{error.name}', which is not installed; "
            "run: pip install 'azeotrope[hub]', or set 'path' to a local JSONL file."
        ) from None
    try:
        rows = load_dataset(name, config, split=split, revision=revision)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MissingError(
            f"The split '{split}' of the hub data set '{name}' could not be loaded ({reason}); "
            "check 'hub', 'config', 'revision' and the network, or set 'path' to a local JSONL file."
        ) from None
    for number, row in enumerate(rows, start=1):
        yield f"{name} ({split}), row {number},", row


def _string(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        state = "is missing" if column not in row else "must be text and not empty"
        raise ValueError(f"the column '{column}' {state}")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError(f"the column '{column}' contains half of a surrogate pair")
    return value


def _letter(answer: Any, letters: str) -> str:
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(letters):
        return letters[answer]
    if isinstance(answer, str) and len(answer.strip()) == 1 and answer.strip().upper() in letters:
        return answer.strip().upper()
    raise ValueError(f"the column 'answer' must be an index from 0 to {len(letters) - 1} or a letter")
