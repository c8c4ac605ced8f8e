"""The sections that a page has only where the run stored their table, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from azeotrope.report import detectability, edits, gains, governance, matrix, schemas, utility
from azeotrope.report.load import Run
from azeotrope.report.schemas import Schema
from azeotrope.report.wording import Told


@dataclass(frozen=True, slots=True)
class Section:
    """One section. `name` is that of its table, its fragment of HTML, its script and its element.

    `measures` is the column that names measures. `terms` enter the glossary, and `tell` gives its sentences.
    """

    name: str
    link: str
    schema: Schema
    measures: str
    terms: tuple[tuple[str, str], ...] = ()
    tell: Callable[[Run], Sequence[Told]] = lambda run: ()


SECTIONS = (
    Section(
        name="utility",
        link="Utility",
        schema=schemas.UTILITY,
        measures="utility",
        terms=(
            (
                "Utility vector",
                "What honest users are served, one measure at a time: whether the answer is right, whether the "
                "steps follow, whether a reader can go on from the trace, whether it refers only to what was "
                "said, and how long it is. One number would hide a defense that spares one and spoils another.",
            ),
        ),
        tell=utility.told,
    ),
    Section(
        name="gains",
        link="Attacks",
        schema=schemas.GAINS,
        measures="metric",
        terms=(
            (
                "Share left",
                "What an attack brings the student under a defense, as a share of what the best attack of the "
                "study brings without one; both are counted from the student before any attack.",
            ),
        ),
        tell=gains.told,
    ),
    Section(
        name="edits",
        link="Edits",
        schema=schemas.EDITS,
        measures="measure",
        terms=(
            (
                "CMI",
                "Conditional mutual information: how much the teacher's distributions say about the text so far "
                "beyond the next word, in nats. It measures what log-probabilities could teach, not what they do.",
            ),
        ),
        tell=edits.told,
    ),
    Section(
        name="recovery",
        link="Adapting",
        schema=schemas.RECOVERY,
        measures="metric",
        terms=(
            (
                "Recovery",
                "The share of what the passive student lost to a defense that an adaptive attack brings back: 0 % "
                "is what fine-tuning on the defended release gives, 100 % what it gives on the undefended one.",
            ),
        ),
    ),
    Section(
        name="governance",
        link="Transfer",
        schema=schemas.GOVERNANCE,
        measures="measure",
        terms=(
            (
                "Governance",
                "What a teacher does beyond being able: refusing restricted requests in every wording, and giving "
                "the same answer under another wording.",
            ),
            (
                "Transfer",
                "The share of the teacher's excess over the undistilled student that the student acquired; the "
                "gap is the share of accuracy minus the share of governance.",
            ),
        ),
        tell=governance.told,
    ),
    Section(
        name="matrix",
        link="Locks",
        schema=schemas.MATRIX,
        measures="metric",
        terms=(
            (
                "Protected task",
                "The task whose loss a defense was told to protect. Measuring it on other tasks shows whether the "
                "lock is on that door only.",
            ),
        ),
        tell=matrix.told,
    ),
    Section(
        name="detectability",
        link="Visibility",
        schema=schemas.DETECTABILITY,
        measures="measure",
        terms=(
            (
                "Clean resample",
                "The control of a detector: the undefended teacher sampled once more, in the place of defended "
                "text. Two clean samples differ too; what a detector says of a defense counts beyond that only.",
            ),
        ),
        tell=detectability.told,
    ),
)


def shown(run: Run) -> list[Section]:
    """Return the sections that this run has."""
    return [section for section in SECTIONS if run.table(section.name) is not None]


def measure_names(run: Run) -> list[str]:
    """Return every measure of the results and of the sections' tables, in order of appearance."""
    found = [run.results["metric"]]
    for section in shown(run):
        table = run.table(section.name)
        assert table is not None
        found.append(table[section.measures])
    return list(dict.fromkeys(name for names in found for name in names.unique(maintain_order=True)))
