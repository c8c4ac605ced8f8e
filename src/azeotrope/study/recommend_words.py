"""A recommendation in sentences. What a reader must know before acting on it is a warning, never a footnote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from azeotrope.study.recommend import CHOSEN, NOTHING_HOLDS, Evidence, Excess, Rival, Rules, TaskEvidence
from azeotrope.study.recommend_tables import Cell, Harm
from azeotrope.study.vocabulary import UNDEFENDED

SAME_RUN = "Chosen and measured on the same run"


UNLIMITED = 0.05  # what costs more than this of a utility without a limit is said


def sentences(choice: Evidence, rules: Rules) -> list[str]:
    """Return the choice and its evidence, one line each; labels from the run are made printable."""
    return [plain(line) for line in (_headline(choice, rules), *_evidence(choice, rules), *_rivals(choice))]


def warnings(choice: Evidence) -> list[str]:
    """Return what a reader must know before acting on the choice."""
    return [plain(line) for line in _warnings(choice)]


def limits(rules: Rules) -> str:
    """Return the limits in words, e.g. ``teacher_accuracy ≤ 0.02 (upper bounds)``."""
    told = ", ".join(f"{name} ≤ {limit:g}" for name, limit in rules.limits.items())
    return f"{told} (upper bounds of the intervals)" if rules.strict else told


def plain(text: str) -> str:
    """Reduce to one printable line.

    >>> plain("a\\n b\\x1b[31m")
    'a b [31m'
    """
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _headline(choice: Evidence, rules: Rules) -> str:
    where = "All tasks" if len(choice.tasks) > 1 else f"Task {choice.tasks[0].task}"
    if not choice.compared:
        return f"{where}: no defense; the run has no setting that can be compared."
    within = f"the limits on the drop ({limits(rules)})"
    count = f"{choice.holding} of {choice.compared} settings hold {within}"
    if choice.status == CHOSEN:
        return f"{where}: {choice.arm} leaks least; {count}."
    if choice.status != NOTHING_HOLDS:
        return f"{where}: no defense; {count}, but none leaks less than the undefended teacher."
    if choice.nearest is None:
        return f"{where}: no defense; no setting of this run holds {within}."
    missed = ", ".join(_exceeds(one, len(choice.tasks) > 1) for one in choice.nearest.exceeds)
    return (
        f"{where}: no defense; no setting of this run holds {within}; the nearest is {choice.nearest.arm}, "
        f"which exceeds {missed}."
    )


def _exceeds(one: Excess, several: bool) -> str:
    return f"{one.measure} by {one.by:.2g}" + (f" on {one.task}" if several else "")


def _evidence(choice: Evidence, rules: Rules) -> Iterator[str]:
    for one in choice.tasks:
        on = f"{one.task}: " if len(choice.tasks) > 1 else ""
        who = "undefended worst case" if choice.arm == UNDEFENDED else "worst case"
        yield f"{on}{who} {rules.leakage} {_cell(one.worst)}{_share(one, choice)}."
        for harm in one.utility:
            yield f"{on}{_harm(harm)}."
        if len(one.attacks) > 1:
            yield f"{on}every attack: {'; '.join(_cell(cell, counts=False) for cell in one.attacks)}."


def _share(one: TaskEvidence, choice: Evidence) -> str:
    if choice.arm == UNDEFENDED:
        return ""
    if one.share_of_gain is None:
        return "; the undefended release brings this student nothing, so there is no share of it to tell"
    return f"; this student still gets {100 * one.share_of_gain:.0f} % of what the undefended release brings it"


def _cell(cell: Cell, *, counts: bool = True) -> str:
    told = f"{_interval(cell.value, cell.low, cell.high)} by {cell.attack} on {cell.student}"
    parts = [f"n = {cell.n}" if cell.n is not None else "", f"seeds: {cell.n_seeds}" if cell.n_seeds else ""]
    inside = ", ".join(part for part in parts if part)
    return f"{told} ({inside})" if counts and inside else told


def _harm(harm: Harm) -> str:
    limit = "no limit" if harm.limit is None else f"limit {harm.limit:g}"
    if harm.drop is None:
        return f"drop in {harm.measure} not measured ({limit})"
    n = f", n = {harm.n}" if harm.n is not None else ""
    what = "change of" if harm.measure == "length" else "drop in"
    return f"{what} {harm.measure} {_interval(harm.drop, harm.low, harm.high)} ({limit}{n})"


def _interval(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _rivals(choice: Evidence) -> Iterator[str]:
    named = (
        ("undefended", choice.undefended),
        ("runner-up", choice.runner_up),
        ("best control within the limits", choice.best_control),
        ("best defense within the limits", choice.best_defense),
    )
    told = {choice.arm}
    for name, rival in named:
        if rival is not None and rival.arm not in told:
            told.add(rival.arm)
            yield f"{name}: {_rival(rival)}."


def _rival(rival: Rival) -> str:
    several = len(rival.worst) > 1
    cells = [_cell(cell, counts=False) + (f" ({task})" if several else "") for task, cell in rival.worst.items()]
    control = " (a control)" if rival.is_control else ""
    name = "" if rival.arm == UNDEFENDED else f"{rival.arm}{control}, "
    overlap = "; its interval overlaps that of the choice" if rival.apart is False else ""
    return f"{name}{', '.join(cells)}{overlap}"


def _warnings(choice: Evidence) -> Iterator[str]:
    if choice.status != CHOSEN:
        yield "NO DEFENSE IS RECOMMENDED: a policy without defenses serves the teacher undefended."
    attacks = dict.fromkeys(cell.attack for one in choice.tasks for cell in one.attacks)
    if not choice.tested_adaptively:
        yield (
            f"NOT TESTED AGAINST ADAPTIVE ATTACKS: only passive ones were run ({', '.join(attacks)}); a thief who "
            "filters, rewrites or resamples may get more."
        )
    yield from _control(choice)
    if choice.status == CHOSEN:
        yield (
            f"{SAME_RUN} (the best of {choice.holding}): its leakage looks lower than it is; confirm on fresh "
            "seeds before you rely on it."
        )
        yield from _unsure(choice)
    for one in choice.tasks:
        if one.unchecked:
            yield f"Task {one.task} does not measure {', '.join(one.unchecked)}: that limit was not checked there."
        for harm in one.utility if choice.status == CHOSEN else ():
            if harm.limit is None and harm.measure != "length" and (harm.drop or 0.0) > UNLIMITED:
                yield (
                    f"Task {one.task}: the {_harm(harm)}; give one with --limit {harm.measure}={UNLIMITED:g} to "
                    "leave out what costs more."
                )
        if one.worst.n_seeds == 1:
            yield f"Task {one.task}: one seed; its leakage intervals do not cover other students."
    for arm, why in choice.skipped.items():
        yield f"Left out: {arm} ({why})."


def _control(choice: Evidence) -> Iterator[str]:
    """Say plainly that a control won, or that there was none to beat."""
    defenses = choice.compared - choice.controls
    if choice.status == CHOSEN and choice.is_control:
        lost = (
            "no defense of this run beat its control within these limits"
            if defenses
            else "no defense was run, only controls"
        )
        yield f"A CONTROL IS BEST: {choice.arm} is a control, not a defense, which means that {lost}."
    elif choice.status == CHOSEN and not choice.controls:
        yield "No control was run: what plain noise at the same harm would do is not known."
    elif choice.status == CHOSEN and choice.best_control is None:
        yield "No control holds these limits: what plain noise at the same harm would do is not known."


def _unsure(choice: Evidence) -> Iterator[str]:
    pairs: Sequence[tuple[str, Rival | None]] = (
        ("the undefended teacher", choice.undefended),
        ("the best control", None if choice.is_control else choice.best_control),
    )
    for name, rival in pairs:
        if rival is not None and rival.apart is not True:
            yield f"Not shown to leak less than {name}: their intervals overlap or are not known."
