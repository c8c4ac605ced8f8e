"""The lock-step decoder as a service: requests join while others are being written.

One thread decodes. What is admitted together under one composition of defenses (and, under any defense, at one
temperature) is one batch (`Run`); every turn writes one more token of every batch, so a request waits for the
token at hand and not for others' ends. A turn takes as many forward passes as there are batches. So batches of
like size and length become one: a row is copied as often as its batch doubles, and there are few batches for each
composition and temperature. Where defenses cannot be joined, requests gather: after an admission the next one is
as many turns later as there are such batches. What a row says depends on its seed and its own sampling alone, and
a row whose logits are not finite ends alone.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import torch

from azeotrope.core.errors import ConfigError, RunError, nearest
from azeotrope.core.sampling import Sampling
from azeotrope.models.decode import Batch, LogitRule, Row, Run
from azeotrope.models.lm import LM

PADDED = 1.5  # cells of a joined cache over those that its two parts had


@dataclass(frozen=True, slots=True)
class Ticket:
    """A prompt to be continued.

    `take(token, finished)` is called from the decoder's thread with every token and must be quick; it says
    whether to go on. `finished`: the model ended by itself (the token is the end-of-sequence token). `fail` is
    called at most once, instead of more tokens. `rules` names a composition of defenses of the engine. Owners who
    wait take turns; a ticket of which `left` says that nobody waits for it is dropped from the line.
    """

    prompt: tuple[int, ...]
    seed: int
    sampling: Sampling
    limit: int
    take: Callable[[int, bool], bool]
    fail: Callable[[RunError], None]
    rules: str = ""
    owner: str = ""
    left: Callable[[], bool] = lambda: False


@dataclass(slots=True)
class _Cohort:
    run: Run
    tickets: list[Ticket]  # by the rows' indices
    told: set[int] = field(default_factory=set)  # indices of those that know how they ended

    def turn(self) -> bool:
        """Write one more token of every row and hand it over; whether any row is left."""
        writing = [row for row in self.run.live if not row.finished]
        self.run.step()
        stopped = {row.index for row in writing if not self._hand_over(row)}
        left = [i for i, row in enumerate(self.run.live) if not row.finished and row.index not in stopped]
        if left and stopped:
            self.run.keep(torch.tensor(left, dtype=torch.long))
        return bool(left)

    def takes(self, other: _Cohort) -> bool:
        """Whether another batch, no larger than this one, should become a part of it."""
        mine, theirs = len(self.run.live), len(other.run.live)
        cells = mine * self.run.width + theirs * other.run.width
        padded = (mine + theirs) * max(self.run.width, other.run.width)
        return 2 * theirs >= mine and padded <= PADDED * cells and self.run.can_join(other.run)

    def take(self, other: _Cohort) -> None:
        """Write the other's rows as well."""
        tickets = [c.tickets[row.index] for c in (self, other) for row in c.run.live if not row.finished]
        self.run.join(other.run)
        self.tickets, self.told = tickets, set()

    def waiting(self) -> list[Ticket]:
        """The tickets that do not know yet how they end."""
        return [ticket for index, ticket in enumerate(self.tickets) if index not in self.told]

    def _hand_over(self, row: Row) -> bool:
        ticket = self.tickets[row.index]
        if row.failed:
            goes_on = False
            ticket.fail(RunError("The model's logits were no longer finite."))
        else:
            goes_on = ticket.take(row.ids[-1], row.finished) and len(row.ids) < ticket.limit
        if not goes_on or row.finished:
            self.told.add(row.index)
        return goes_on


class Line:
    """Who waits: a line an owner, served in turn."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self.size = 0

    def room(self, owner: str, most: int) -> bool:
        """Whether there is room for a ticket of an owner."""
        mine = len(self._lines.get(owner, ()))
        return self.size < most and 4 * mine < 3 * most and (mine == self.size or 2 * mine < most)

    def put(self, ticket: Ticket) -> None:
        """Put a ticket at the end of its owner's line."""
        self._lines.setdefault(ticket.owner, deque()).append(ticket)
        self.size += 1

    def next(self) -> Ticket | None:
        """The first ticket of the owner whose turn it is, if anybody waits for any."""
        while self._lines:
            owner, line = self._lines.popitem(last=False)
            while line:
                ticket = line.popleft()
                self.size -= 1
                if not ticket.left():
                    if line:
                        self._lines[owner] = line  # behind the others
                    return ticket
        return None

    def clear(self) -> None:
        """Drop the tickets that nobody waits for."""
        for ticket in self.rest():
            if not ticket.left():
                self.put(ticket)

    def rest(self) -> list[Ticket]:
        """All that wait; nobody does any more."""
        found = [ticket for line in self._lines.values() for ticket in line]
        self._lines.clear()
        self.size = 0
        return found


class Engine:
    """Decodes tickets with `lm` until `stop`. `rules` are compositions by name; "" is the undefended model.

    At most `rows` are written at a time and `waiting` wait, of one owner three quarters of these, or half while
    others wait too; `submit` raises RunError beyond that.
    """

    def __init__(
        self,
        lm: LM,
        rules: Mapping[str, Sequence[LogitRule]] | None = None,
        *,
        rows: int = 64,
        waiting: int = 1024,
    ) -> None:
        self.lm = lm
        self._rules: dict[str, Sequence[LogitRule]] = {"": (), **(rules or {})}
        self._rows, self._most = rows, waiting
        self._waiting = Line()
        self._cohorts: list[_Cohort] = []
        self._turns = 0  # since somebody was admitted
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="azeotrope-engine", daemon=True)
        self._thread.start()

    @property
    def active(self) -> int:
        """Rows that are being written."""
        return sum(len(cohort.run.live) for cohort in self._cohorts)

    def submit(self, ticket: Ticket) -> None:
        """Put a prompt in line. Raises ConfigError (empty prompt, unknown rules) and RunError (full, stopped)."""
        if not ticket.prompt:
            raise ConfigError("An empty prompt cannot be continued; give it at least one token.")
        if ticket.rules not in self._rules:
            raise ConfigError(f"The engine has no defenses '{ticket.rules}'.{nearest(ticket.rules, self._rules)}")
        with self._wake:
            if not self._stopping and not self._waiting.room(ticket.owner, self._most):
                self._waiting.clear()
            if self._stopping or not self._waiting.room(ticket.owner, self._most):
                raise RunError("The model's line is full; try again later.")
            self._waiting.put(ticket)
            self._wake.notify()

    def stop(self) -> None:
        """End at once: what is not finished fails."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def _work(self) -> None:
        try:
            with torch.no_grad():
                while self._round():
                    pass
        finally:  # also after a bug: whoever waits is told, and nobody else is taken in
            with self._wake:
                self._stopping = True
                left = self._waiting.rest()
            left += [ticket for cohort in self._cohorts for ticket in cohort.waiting()]
            _fail(left, RunError("The model was stopped before it was finished."))
            for cohort in self._cohorts:
                cohort.run.close()

    def _round(self) -> bool:
        """Admit who waits and write a token of every batch; whether to go on."""
        with self._wake:
            while not (self._waiting.size or self._cohorts or self._stopping):
                self._wake.wait()
            if self._stopping:
                return False
            arrived = self._arrived() if self._turns >= self._patience() else []
        self._turns = 1 if arrived else self._turns + 1
        for tickets in arrived:
            try:
                self._cohorts.append(self._open(tickets))
            except Exception as error:
                _fail(tickets, error)
        self._join([cohort for cohort in self._cohorts if self._turn(cohort)])
        return True

    def _patience(self) -> int:
        """Turns between admissions: as many as there are batches that stay apart."""
        return sum(not cohort.run.joins for cohort in self._cohorts)

    def _arrived(self) -> list[list[Ticket]]:
        """The tickets there is room for, in batches of one composition and, under defenses, of one temperature."""
        groups: dict[tuple[str, float, float], list[Ticket]] = {}
        room = self._rows - self.active
        while room > 0 and (ticket := self._waiting.next()) is not None:
            sampling = ticket.sampling
            heat = sampling.temperature if self._rules[ticket.rules] else 0.0
            groups.setdefault((ticket.rules, heat, sampling.repetition_penalty), []).append(ticket)
            room -= 1
        return list(groups.values())

    def _open(self, tickets: list[Ticket]) -> _Cohort:
        seeds_B = torch.tensor([t.seed for t in tickets], dtype=torch.int64, device=self.lm.model.device)
        batch = Batch(tuple(ticket.prompt for ticket in tickets), seeds_B)
        samplings = [ticket.sampling for ticket in tickets]
        return _Cohort(Run(self.lm, batch, samplings, self._rules[tickets[0].rules], lenient=True), tickets)

    def _join(self, cohorts: list[_Cohort]) -> None:
        """Go on with these batches, those of like size as one. An error ends the two that it befell."""
        self._cohorts = []
        for cohort in sorted(cohorts, key=lambda one: -len(one.run.live)):
            larger = next((one for one in reversed(self._cohorts) if one.takes(cohort)), None)
            if larger is None:
                self._cohorts.append(cohort)
                continue
            waiting = [cohort.waiting(), larger.waiting()]
            try:
                larger.take(cohort)
            except Exception as error:
                self._cohorts.remove(larger)
                for tickets in waiting:
                    _fail(tickets, error)
                larger.run.close()
                cohort.run.close()

    def _turn(self, cohort: _Cohort) -> bool:
        """One turn; whether any row is left. An error ends this batch, not the engine."""
        try:
            if cohort.turn():
                return True
        except Exception as error:
            _fail(cohort.waiting(), error)
        cohort.run.close()
        return False


def _fail(tickets: Sequence[Ticket], error: Exception) -> None:
    """Whatever it is, whoever waits must hear of it."""
    told = error if isinstance(error, RunError) else RunError(f"The model failed ({type(error).__name__}).")
    for ticket in tickets:
        with suppress(Exception):  # one that cannot be told must not keep it from the others
            ticket.fail(told)
