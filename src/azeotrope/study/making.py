"""Which texts a step worked on.

Where a release's texts are not kept, they are made again for whatever still needs them, and need not come out the
same on another machine: a trained map differs by rounding, and another of its checkpoints may be the best. So a
release records the fingerprint of its texts, and what reads them records it too. A step that read other texts than
the store's release has counts as not done: the students of one release have all learned from one and the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from azeotrope.core.seeds import fingerprint
from azeotrope.study.specs import RELEASE
from azeotrope.study.store import READ, Store, read_parquet

TRACES = "traces.parquet"
TEXTS = "texts"  # in done.json: the fingerprint of a release's own texts


def texts_of(folder: Path) -> str | None:
    """The fingerprint of a release's texts; None where they are not kept. Raises RunError if damaged."""
    path = folder / TRACES
    if not path.is_file():
        return None
    frame = read_parquet(path)
    return fingerprint([frame["problem_id"].to_list(), frame["text"].to_list()], 20)


def making(store: Store, folder: Path, needs: Sequence[str]) -> dict[str, Any]:
    """What the record of a step that ends now says of texts: its own, and those it read."""
    own = texts_of(folder)
    read = {need: _texts(store, need) for need in dict.fromkeys(needs)}
    told = {need: texts for need, texts in read.items() if texts is not None}
    return ({TEXTS: own} if own else {}) | ({READ: told} if told else {})


def stored(store: Store, stage: str, step: str, needs: Sequence[str], known: dict[str, str | None]) -> bool:
    """Whether a step is done, on the texts that its stored releases have; `known` keeps what was looked up.

    Steps of before texts were told of have None on both sides, and pass. Raises RunError for a damaged record.
    """
    if not store.done(stage, step):
        return False
    read: Mapping[str, str] = (store.record(stage, step).get(READ) or {}) if needs else {}
    for need in needs:
        if store.done(RELEASE, need):
            if need not in known:
                known[need] = _texts(store, need)
            if read.get(need) != known[need]:
                return False
    return True


def _texts(store: Store, release: str) -> str | None:
    found = store.record(RELEASE, release).get(TEXTS)
    return None if found is None else str(found)
