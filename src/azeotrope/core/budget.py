"""What a thief may spend on an attack, declared before it runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What an attack asks for beyond the release, per released trace; D is the number of released traces.

    `queries` are further completions asked of the defended service (the query budget is Q = D + `queries`·D),
    `data` the lessons that the student is trained on in the end, at most, whoever wrote them, and `leaks` the
    undefended traces that are assumed to have leaked. `leaked` are undefended traces too, but a number that
    does not grow with the release (a release of fewer traces leaks one a problem). With `probes`, replies of one
    token are asked for too, several for every token of the release: how many, its length and the service decide.
    All of it is for one student.

    >>> str(Budget(queries=2))
    'asks 2 further queries per released trace; trains on at most 1 trace per released trace'
    """

    queries: float = 0.0
    data: float = 1.0
    leaks: float = 0.0
    leaked: int = 0
    probes: bool = False

    def billed(self, traces: int) -> int:
        """Completions that the service bills for a release of `traces` traces: queries and leaks, no probes."""
        return round(self.queries * traces) + self.leaking(traces)

    def leaking(self, traces: int) -> int:
        """Undefended traces that must have leaked for a release of `traces` traces."""
        return round(self.leaks * traces) + min(self.leaked, traces)

    def __str__(self) -> str:
        per = "per released trace"
        asked = f"{_count(self.queries, 'further query', 'further queries')} {per}" if self.queries else "nothing"
        parts = [f"asks {asked}", f"trains on at most {_count(self.data, 'trace', 'traces')} {per}"]
        if self.leaks:
            parts.append(f"assumes {_count(self.leaks, 'leaked trace', 'leaked traces')} {per}")
        if self.leaked:
            parts.append(f"assumes {_count(self.leaked, 'leaked trace', 'leaked traces')} in all")
        if self.probes:
            parts.append("probes every token of the release")
        return "; ".join(parts)


def _count(number: float, one: str, many: str) -> str:
    return f"{number:g} {one if number == 1 else many}"
