"""A policy compiled: facts about a request in, a decision with its reasons out.

A snapshot never changes; a reload makes another one and swaps it in whole. Requests under way keep theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

from azeotrope.core.errors import AzeotropeError, ConfigError
from azeotrope.gateway.policy import Context, Failing, PolicyFile, Resolved, When, load_policy
from azeotrope.gateway.shield import Treatment

REMEMBERED = 4096  # decisions kept ready


@dataclass(frozen=True, slots=True)
class Facts:
    """What a policy may look at. `level` is how suspicious the traffic is that the request belongs to (0 to 4)."""

    tenant: str = ""
    tier: str = ""
    model: str = ""
    dialect: str = "chat"
    level: int = 0
    stream: bool = False
    tools: bool = False
    logprobs: bool = False
    reasoning: bool = False
    most_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """A stance, the context that gave it, and the level that raised it (0: none did)."""

    context: str
    stance: Resolved
    treatment: Treatment
    raised: int
    policy: str  # hash


class Snapshot:
    """A policy, ready to decide."""

    def __init__(self, file: PolicyFile, stances: Mapping[str, Resolved], digest: str) -> None:
        self.file, self.stances, self.hash = file, dict(stances), digest
        self._treatments = {name: stance.treatment for name, stance in stances.items()}
        self.decide = lru_cache(REMEMBERED)(self._decide)

    @property
    def failing(self) -> Failing:
        """What happens when something is down."""
        return self.file.failing

    @property
    def warnings(self) -> list[str]:
        """What an operator should know: strengths that no study measured."""
        return [
            f"stance '{name}': no study measured {label} at this strength"
            for name, stance in self.stances.items()
            for label in stance.unmeasured
        ]

    def _decide(self, facts: Facts) -> Decision:
        for context in self.file.contexts:
            if not failed(context.when, facts):
                return self._decision(context, facts.level)
        raise AssertionError("the last context has no conditions")

    def _decision(self, context: Context, level: int) -> Decision:
        raised = max((at for at in context.raised if at <= level), default=0)
        name = context.raised[raised] if raised else context.stance
        return Decision(context.name, self.stances[name], self._treatments[name], raised, self.hash)

    def explain(self, facts: Facts) -> list[str]:
        """Why a request with these facts gets its stance: a line for each context looked at, then the stance."""
        lines = []
        for context in self.file.contexts:
            missed = failed(context.when, facts)
            if missed:
                lines.append(f"{context.name}: no, {missed}")
                continue
            decision = self._decision(context, facts.level)
            why = f", raised from level {decision.raised} on" if decision.raised else ""
            lines.append(f"{context.name}: yes, stance '{decision.stance.name}'{why}")
            return [*lines, *describe(decision.stance)]
        raise AssertionError("the last context has no conditions")


def failed(when: When, facts: Facts) -> str:
    """The first condition that does not hold, in words; "" if all do."""
    for name in ("tier", "tenant", "model", "dialect"):
        wanted = getattr(when, name)
        if wanted and getattr(facts, name) not in wanted:
            return f"{name} '{getattr(facts, name)}' is not {' or '.join(wanted)}"
    if facts.level < when.level:
        return f"level {facts.level} is below {when.level}"
    for name in ("stream", "tools", "logprobs", "reasoning"):
        wanted = getattr(when, name)
        if wanted is not None and getattr(facts, name) is not wanted:
            return f"{name} is {str(getattr(facts, name)).lower()}"
    if when.most_tokens is not None and (facts.most_tokens is None or facts.most_tokens > when.most_tokens):
        return f"the reply's limit is not {when.most_tokens} tokens or fewer"
    return ""


def describe(stance: Resolved) -> list[str]:
    """A stance in words."""
    dials = stance.stance
    found = [
        f"  disclose: {dials.disclose}; fidelity: {dials.fidelity}; distillability: {dials.distillability}",
        f"  defenses: {', '.join(stance.labels) or 'none'}",
        f"  logprobs: {dials.logprobs}; logit_bias: {'allowed' if dials.logit_bias else 'refused'}; "
        f"reasoning tokens: {dials.reasoning_tokens}",
    ]
    if dials.refuse:
        found.append(f"  refused: {dials.refuse}")
    if stance.study:
        found.append(f"  measured by the study {stance.study}")
    return found + [f"  warning: no study measured {label} at this strength" for label in stance.unmeasured]


def snapshot(path: Path) -> Snapshot:
    """Read and compile a policy. Raises ConfigError and MissingError; nothing is compiled in part."""
    return Snapshot(*load_policy(path))


class PolicyBox:
    """The policy in force. `reload` swaps in a new one whole, or keeps the old one and says why."""

    def __init__(self, path: Path | None, first: Snapshot | None = None) -> None:
        if first is None:
            if path is None:
                raise ConfigError("A policy needs a file.")
            first = snapshot(path)
        self._path, self._lock = path, Lock()
        self.current = first
        self.error = ""
        self._check: Callable[[Snapshot], None] = lambda snapshot: None
        self._seen = self._stamp()

    def accept(self, check: Callable[[Snapshot], None]) -> None:
        """Hold this policy and every later one to `check`, which raises ConfigError."""
        check(self.current)
        self._check = check

    def reload(self) -> bool:
        """Read the file again; True if another policy is in force now. `error` says what was wrong with it."""
        with self._lock:
            if self._path is None:
                return False
            self._seen = self._stamp()
            try:
                found = snapshot(self._path)
                self._check(found)
            except AzeotropeError as error:
                self.error = str(error)
                return False
            except Exception as error:  # whatever is wrong with a file, later ones must still be read
                self.error = f"{self._path} cannot be used ({type(error).__name__})"
                return False
            self.error = ""
            changed = found.hash != self.current.hash
            self.current = found
            return changed

    def changed(self) -> bool:
        """Whether the file was touched since it was last read."""
        return self._stamp() != self._seen

    def _stamp(self) -> tuple[int, int]:
        if self._path is None:
            return (0, 0)
        try:
            found = self._path.stat()
        except OSError:
            return (-1, -1)
        return (found.st_mtime_ns, found.st_size)
