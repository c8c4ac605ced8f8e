"""The file that `azeotrope new defense` writes: a small method that works, to be replaced by yours."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template

from azeotrope.core.errors import ConfigError, nearest
from azeotrope.core.plugins import catalogue
from azeotrope.study.store import disk

STAGES = ("logits", "trace")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,60}")


def write_defense(name: str, stage: str, folder: Path) -> tuple[Path, str]:
    """Write `folder`/NAME.py; return its path and the entry-point lines. Raises ConfigError and RunError."""
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigError(f"'{name}' is not a name for a method; use lower-case letters, digits and _.")
    if stage not in STAGES:
        raise ConfigError(f"There is no template for the stage '{stage}'.{nearest(stage, STAGES)}")
    if name in catalogue("defenses"):
        raise ConfigError(f"There is a defense '{name}' already; choose another name.")
    path = folder / f"{name}.py"
    if path.exists():
        raise ConfigError(f"'{path}' exists already; choose another name or --dir.")
    cls = "".join(part.capitalize() for part in name.split("_") if part)
    text = Template(LOGITS if stage == "logits" else TRACE).substitute(name=name, cls=cls)
    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return path, f'[project.entry-points."azeotrope.defenses"]\n{name} = "{name}:{cls}"\n'


LOGITS = '''"""$cls: say in one sentence what it does to the teacher's distribution.

Source: the paper's id, with section and equation numbers. Map each symbol to an argument, say what the method
assumes and what it costs per token.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from azeotrope.core.types import Paper
from azeotrope.defenses.base import Bench, LogitDefense
from azeotrope.models.decode import Batch, LogitRule, Session, StepView


class $cls(LogitDefense):
    """Lower the logit of the likeliest token by `amount` (an example to be replaced)."""

    kind: ClassVar[str] = "$name"
    summary: ClassVar[str] = "lowers the likeliest token's logit"
    paper: ClassVar[Paper | None] = None  # Paper(id="2504.13146", title="...", equations=("(3)",))
    dial: ClassVar[str] = "amount"  # the one strength dial; at 0 the method must be the identity
    sweep: ClassVar[tuple[float, ...]] = (0.5, 1.0, 2.0)

    amount: float = Field(default=1.0, ge=0, description="logits (nats)")

    def bind(self, bench: Bench) -> LogitRule:
        """Load models and calibrate here (`bench.model`, `bench.holdout`); this example needs neither."""
        return _Rule(self.amount)


class _Rule(LogitRule, Session):
    """Stateless, so it is its own session. With state per row, open a Session and override `select` and `join`."""

    joins: ClassVar[bool] = True  # a server may make one batch of several

    def __init__(self, amount: float) -> None:
        self.amount = amount

    def open(self, batch: Batch) -> Session:
        return self

    def step(self, view: StepView) -> Tensor:
        """Return the defended logits [B, V]; never modify `view.logits_BV`."""
        logits_BV = view.logits_BV
        best_BV = one_hot(logits_BV.argmax(-1), logits_BV.shape[-1])
        return logits_BV - self.amount * best_BV.to(logits_BV.dtype)
'''

TRACE = '''"""$cls: say in one sentence what it does to a finished trace.

Source: the paper's id, with section and equation numbers. Map each symbol to an argument, and say what the
method assumes. Only the reasoning may change, never the answer.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import ClassVar

from pydantic import Field

from azeotrope.core.methods import TraceDefense
from azeotrope.core.types import Paper, Trace, split_answer
from azeotrope.defenses.traceguard import is_protected
from azeotrope.text.segment import segment


class $cls(TraceDefense):
    """Leave out each sentence of the reasoning with probability `share` (an example to be replaced)."""

    kind: ClassVar[str] = "$name"
    summary: ClassVar[str] = "leaves out sentences at random"
    paper: ClassVar[Paper | None] = None  # Paper(id="2604.23238", title="...", equations=("(3)",))
    dial: ClassVar[str] = "share"  # the one strength dial; at 0 the method must be the identity
    sweep: ClassVar[tuple[float, ...]] = (0.1, 0.2, 0.4)

    share: float = Field(default=0.2, ge=0, le=1, description="of the sentences")

    def rewrite(self, trace: Trace, rng: Random) -> Trace:
        """Return the trace to release; it depends on `trace` and the state of `rng` only."""
        if self.share == 0:
            return trace
        reasoning, answer = split_answer(trace.text)
        kept = []
        for sentence in segment(reasoning):
            dropped = rng.random() < self.share  # drawn for every sentence: a larger share drops a superset
            if is_protected(sentence, 0, len(sentence)) or not dropped:
                kept.append(sentence)
        # Token ids and movement described the original; 0 tokens means "not known".
        return replace(trace, text="".join(kept) + answer, n_tokens=0, token_ids=None, moved=None)
'''
