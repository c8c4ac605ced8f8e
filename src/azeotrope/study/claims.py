"""A trial: studies (its parts) and pre-stated claims that their results decide.

A trial file says beforehand what is claimed, by which rule it is decided, on which part, and what a difference
must amount to. Running it runs the parts (each a study; steps are shared and resumable) and gives every claim a
verdict on every task, with the difference that the part could have detected beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from azeotrope.core.errors import ConfigError, nearest
from azeotrope.core.methods import Settings, explain
from azeotrope.core.seeds import fingerprint
from azeotrope.study.arms import expand
from azeotrope.study.claim_names import check_names
from azeotrope.study.config import Study, apply_override, parse_study, read_yaml

Share = Annotated[float, Field(ge=0, le=1)]


class EqualCost(Settings):
    """`defense`'s students are weaker than `reference`'s where both cost `drop` of `utility`."""

    rule: Literal["equal_cost"]
    defense: str
    reference: str
    utility: str = "teacher_accuracy"
    drop: Share = 0.05
    metric: str = "student_accuracy"
    attack: str = "sft"


class Controlled(EqualCost):
    """As `equal_cost`, and at equal wrong statements a trace too (`errors` more than undefended)."""

    rule: Literal["controlled"]  # type: ignore[assignment]
    errors: float = Field(0.1, gt=0, description="wrong statements a trace, beyond the undefended teacher's")


class Grows(Settings):
    """The students' loss is larger at the strongest setting of `defense` than at the weakest; answers stay."""

    rule: Literal["grows"]
    defense: str
    metric: str = "student_accuracy"
    attack: str = "sft"


class Weaker(Settings):
    """Students of `arm` are weaker than those of each of `references` (labels of arms, or their beginnings)."""

    rule: Literal["weaker"]
    arm: str
    references: tuple[str, ...] = Field(min_length=1)
    metric: str = "student_accuracy"
    attack: str = "sft"


class Below(Settings):
    """Students of `arm` by each of `attacks` are weaker than those of `reference_arm` by each of `references`.

    Attacks are labels or kinds. `none` is the undefended teacher; without a `reference_arm` it is `arm`. With
    `slack` above 0 they need not be weaker: none may be stronger by so much, and the slack is the margin.
    """

    rule: Literal["below"]
    attacks: tuple[str, ...] = Field(min_length=1)
    references: tuple[str, ...] = Field(min_length=1)
    arm: str = "none"
    reference_arm: str | None = None
    slack: float = Field(default=0.0, ge=0, lt=1)
    metric: str = "student_accuracy"


class Restored(Settings):
    """Some attack (of `attacks`, by default any) restores at least `share` of what `arm` costs by `passive`."""

    rule: Literal["restored"]
    arm: str
    share: Share = 0.5
    metric: str = "student_accuracy"
    passive: str = "sft"
    attacks: tuple[str, ...] = ()


class Asymmetric(Settings):
    """Capability transfers more completely than governance, from the undefended teacher."""

    rule: Literal["asymmetric"]
    measure: str = "refusal_consistency"
    attack: str = "sft"


class Withstands(Settings):
    """Under every attack, students of `arm` get at most `share` of the best gain without the defense."""

    rule: Literal["withstands"]
    arm: str
    share: Share = 0.5
    metric: str = "student_accuracy"


class Spares(Settings):
    """`arm` costs the teacher at most `slack` of a utility that is a share. Its unit is the draw."""

    rule: Literal["spares"]
    arm: str
    utility: str = "teacher_accuracy"
    slack: float = Field(default=0.01, gt=0, lt=1)

    @field_validator("utility")
    @classmethod
    def _a_share(cls, value: str) -> str:
        if value == "wrong_statements":
            raise ValueError("wrong_statements counts; the rule spares takes a share, controlled compares counts")
        return value


class Surrogate(Settings):
    """Students whose own base a defense was trained against are weaker than where it was trained against another.

    `arms` (labels, or their beginnings) differ in their surrogate: the k-th was trained against base k.
    """

    rule: Literal["surrogate"]
    arms: tuple[str, ...] = Field(min_length=2)
    metric: str = "student_accuracy"
    attack: str = "sft"


Rule = Annotated[
    EqualCost | Controlled | Grows | Weaker | Below | Restored | Asymmetric | Withstands | Surrogate | Spares,
    Field(discriminator="rule"),
]


class Claim(Settings):
    """One pre-stated claim: an id, a sentence, the part that decides it, and the rule."""

    id: str = Field(pattern=r"^[A-Za-z0-9]+$")
    text: str = Field(min_length=1)
    part: str
    group: str = Field("", description="claims that are adjusted together; one added later belongs in another")
    students: tuple[str, ...] = Field((), description="families it is decided on; all of the part by default")
    test: Rule


class Trial(Settings):
    """A trial file. `common` holds the settings that all parts share; a part overrides them key by key."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)
    margin: Share = Field(0.05, description="the smallest difference worth having, a share")
    level: float = Field(
        0.05, gt=0, lt=0.5, description="family-wise error over the claims of a group and tasks (Holm)"
    )
    common: dict[str, Any]
    parts: dict[str, dict[str, Any]] = Field(min_length=1)
    claims: tuple[Claim, ...] = Field(min_length=1)

    @property
    def hash(self) -> str:
        """Fingerprint of the whole trial file."""
        return fingerprint(self.model_dump(mode="json"))

    def study(self, part: str) -> Study:
        """Return a part as a study named `<trial>-<part>`. Raises ConfigError, naming the part."""
        raw = {**self.common, **self.parts[part], "name": f"{self.name}-{part}"}
        try:
            return parse_study(raw)
        except ConfigError as error:
            raise ConfigError(f"Part '{part}' of the trial '{self.name}': {error}") from None


def load_trial(path: Path, overrides: Sequence[str] = ()) -> Trial:
    """Read a trial file and check every part and claim. Raises MissingError and ConfigError."""
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} does not hold a trial; write 'name:', 'common:', 'parts:' and 'claims:'.")
    for override in overrides:
        apply_override(raw, override)
    return parse_trial(raw)


def parse_trial(raw: Mapping[str, Any]) -> Trial:
    """Build a Trial from plain values. Raises ConfigError."""
    try:
        trial = Trial.model_validate(dict(raw))
    except ValidationError as error:
        raise ConfigError(explain(error, "", Trial)) from None
    for claim in trial.claims:
        if claim.part not in trial.parts:
            raise ConfigError(
                f"Claim '{claim.id}' names the part '{claim.part}', which there is not."
                f"{nearest(claim.part, list(trial.parts))}"
            )
    expansions = {part: expand(trial.study(part)) for part in trial.parts}
    for claim in trial.claims:
        try:
            check_names(f"{trial.name}-{claim.part}", expansions[claim.part], claim.test)
        except ConfigError as error:
            raise ConfigError(f"Claim '{claim.id}': {error}") from None
    return trial
