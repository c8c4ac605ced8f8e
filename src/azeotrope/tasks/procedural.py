"""Endless problems from reasoning-gym's generators. No torch, no download.

Every split and seed has its own generator seeds, and a problem is kept only in the split that the hash of its
text names, so that no problem is ever in two splits, whatever the seeds and numbers asked for.

Grading is ours rather than reasoning-gym's: its GSM-symbolic score takes the first number of a text as the
answer, cannot read a negative one, and gives partial credit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from azeotrope.core.errors import ConfigError, MissingError
from azeotrope.core.seeds import derive
from azeotrope.core.types import Problem
from azeotrope.tasks.datafiles import Item, PromptedTask, check_split, split_of, text_key

RELEASE_SHARE = 0.5  # of the problem space; holdout and test have a quarter each
_CHUNK = 256
_PATIENCE = 20  # chunks without a single new problem before the space counts as used up
_FORMAT_NOTE = " Give the result as your final answer. Do not include units."


class ProceduralTask(PromptedTask):
    """Problems of one reasoning-gym generator."""

    def problems(self, split: str, n: int, seed: int = 0) -> list[Problem]:
        """Return `n` distinct problems. Raises ConfigError if the generator cannot make that many."""
        check_split(split)
        found: dict[str, Item] = {}
        idle = 0
        for chunk in self._chunks(split, n, seed):
            before = len(found)
            for entry in chunk:
                item = self.parse(entry)
                if split_of(item.text, RELEASE_SHARE) == split:
                    found.setdefault(text_key(item.text), item)
            idle = idle + 1 if len(found) == before else 0
            if idle == _PATIENCE:
                raise ConfigError(
                    f"'{self.kind}' with these settings makes only about {len(found)} problems for split "
                    f"'{split}', but {n} were asked for; ask for fewer or widen the task's settings."
                )
            if len(found) >= n:
                break
        return [self.to_problem(item) for item in list(found.values())[:n]]

    @abstractmethod
    def generator_settings(self) -> Mapping[str, Any]:
        """The settings passed to reasoning-gym."""

    @abstractmethod
    def parse(self, entry: Mapping[str, Any]) -> Item:
        """Understand one generated entry."""

    def _chunks(self, split: str, n: int, seed: int) -> Iterator[list[Mapping[str, Any]]]:
        """Endless batches of entries; nothing at all for n = 0."""
        create = _generator()
        number = 0
        while n > 0:
            chunk_seed = derive(seed, self.kind, split, number)
            data = create(self.kind, seed=chunk_seed, size=_CHUNK, **self.generator_settings())
            yield [data[index] for index in range(_CHUNK)]
            number += 1


class GsmSymbolic(ProceduralTask):
    """Grade-school word problems from the GSM-symbolic templates, with worked solutions as gold traces."""

    kind: ClassVar[str] = "gsm_symbolic"
    summary: ClassVar[str] = "Templated grade-school word problems (GSM-symbolic, reasoning-gym)"

    def generator_settings(self) -> Mapping[str, Any]:
        """The generator has one difficulty only."""
        return {}

    def parse(self, entry: Mapping[str, Any]) -> Item:
        """Take the question without its format note (the prompt template says how to answer)."""
        solution = str(entry["metadata"].get("answer_cot", "")).rpartition("####")[0].strip()
        text = str(entry["question"]).removesuffix(_FORMAT_NOTE).strip()
        return Item(text=text, answer=str(entry["answer"]), solution=solution)


class ChainSum(ProceduralTask):
    """Sums and differences of a few integers, such as ``4 - 1 - 7``."""

    kind: ClassVar[str] = "chain_sum"
    summary: ClassVar[str] = "Chains of additions and subtractions (reasoning-gym)"

    min_terms: int = Field(default=2, ge=1, description="fewest numbers in a chain")
    max_terms: int = Field(default=6, ge=1, description="most numbers in a chain")
    min_digits: int = Field(default=1, ge=1, le=100, description="fewest digits of a number")
    max_digits: int = Field(default=4, ge=1, le=100, description="most digits of a number")
    allow_negation: bool = Field(default=False, description="whether the numbers may be negative")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("terms", "digits"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low > high:
                raise ValueError(f"'min_{name}' ({low}) must not exceed 'max_{name}' ({high})")
        return self

    def generator_settings(self) -> Mapping[str, Any]:
        """All settings except the prompt go to the generator."""
        return self.model_dump(exclude={"prompt"})

    def parse(self, entry: Mapping[str, Any]) -> Item:
        """Take the question as it is; there are no worked solutions."""
        return Item(text=str(entry["question"]).strip(), answer=str(entry["answer"]))


def _generator() -> Any:
    try:
        from reasoning_gym import create_dataset
    except ModuleNotFoundError as error:
        raise MissingError(
            f"Procedural tasks need the package '{error.name}', which is not installed; "
            "run: pip install 'azeotrope[procedural]'."
        ) from None
    return create_dataset
