"""Audit rows read back, a page at a time: however many there are, memory holds one page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import sqlalchemy as sa

from azeotrope.core.errors import RunError
from azeotrope.gateway.ledger.audit_row import plain
from azeotrope.gateway.ledger.database import Database
from azeotrope.gateway.ledger.schema import audit_heads, audit_originals, audit_rows

PAGE: Final = 2000
BIG_PAGE: Final = 50  # of sealed originals, which may be long
_ROWS: Final = audit_rows.c
_COLUMNS: Final = (
    _ROWS.chain, _ROWS.seq, _ROWS.hash, _ROWS.row, _ROWS.time_ms, _ROWS.tenant, _ROWS.request_id,
)  # fmt: skip


class RowRead(NamedTuple):
    """A row as it stands in the table; nothing here was checked."""

    chain: str
    seq: int
    hash: bytes
    row: str
    time_ms: int
    tenant: str
    request_id: str


class HeadRead(NamedTuple):
    """A head as it stands in the table; nothing here was checked."""

    chain: str
    seq: int
    final: int
    line: str


class OriginalRead(NamedTuple):
    """A sealed original and the text of its row (None: there is no such row)."""

    chain: str
    seq: int
    sealed: bytes
    row: str | None


def count_rows(database: Database) -> int:
    """Return how many rows there are."""
    with database.read() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(audit_rows)) or 0)


def chains(database: Database) -> Iterator[str]:
    """Yield the ids of the chains that have rows, by one step in the index each. Raises RunError."""
    last: str | None = None
    while True:
        query = sa.select(sa.func.min(_ROWS.chain))
        with database.read() as connection:
            last = connection.scalar(query if last is None else query.where(_ROWS.chain > last))
        if last is None:
            return
        if not isinstance(last, str):  # SQLite lets anybody store anything
            raise RunError(
                f"The audit log in '{database.name}' has a row whose chain is not text; nobody wrote that."
            )
        yield last


def pages(database: Database, chain: str, *, after: int | None = None) -> Iterator[list[RowRead]]:
    """Yield the rows of a chain in order: all, or those after row `after`."""
    last = after
    query = sa.select(*_COLUMNS).where(_ROWS.chain == chain).order_by(_ROWS.seq).limit(PAGE)
    while True:
        with database.read() as connection:
            page = connection.execute(query if last is None else query.where(_ROWS.seq > last))
            rows = [RowRead(*row) for row in page]
        if rows:
            last = rows[-1].seq
            yield rows
        if len(rows) < PAGE:
            return


def pages_by_time(
    database: Database, *, since_ms: int | None = None, until_ms: int | None = None, tenant: str | None = None
) -> Iterator[list[RowRead]]:
    """Yield rows by time, from `since_ms` on and before `until_ms`, of one tenant or all."""
    order = (_ROWS.time_ms, _ROWS.chain, _ROWS.seq)
    query = sa.select(*_COLUMNS).order_by(*order).limit(PAGE)
    if since_ms is not None:
        query = query.where(_ROWS.time_ms >= since_ms)
    if until_ms is not None:
        query = query.where(_ROWS.time_ms < until_ms)
    if tenant is not None:
        query = query.where(_ROWS.tenant == plain(tenant))
    last: RowRead | None = None
    while True:
        following = query
        if last is not None:
            values = [sa.literal(value, column.type) for value, column in
                      zip((last.time_ms, last.chain, last.seq), order, strict=True)]  # fmt: skip
            following = query.where(sa.tuple_(*order) > sa.tuple_(*values))
        with database.read() as connection:
            rows = [RowRead(*row) for row in connection.execute(following)]
        if rows:
            last = rows[-1]
            yield rows
        if len(rows) < PAGE:
            return


def heads(database: Database) -> Iterator[HeadRead]:
    """Yield the heads, by chain and number of rows."""
    table = audit_heads.c
    order = (table.chain, table.seq, table.final)
    query = sa.select(table.chain, table.seq, table.final, table.line).order_by(*order).limit(PAGE)
    last: HeadRead | None = None
    while True:
        following = query
        if last is not None:
            later = sa.or_(
                table.chain > last.chain,
                sa.and_(table.chain == last.chain, table.seq > last.seq),
                sa.and_(table.chain == last.chain, table.seq == last.seq, table.final > last.final),
            )
            following = query.where(later)
        with database.read() as connection:
            page = [HeadRead(*row) for row in connection.execute(following)]
        yield from page
        if len(page) < PAGE:
            return
        last = page[-1]


def originals(database: Database) -> Iterator[OriginalRead]:
    """Yield the sealed originals, by chain and row."""
    table = audit_originals.c
    same = sa.and_(_ROWS.chain == table.chain, _ROWS.seq == table.seq)
    query = (
        sa.select(table.chain, table.seq, table.sealed, _ROWS.row)
        .select_from(audit_originals.outerjoin(audit_rows, same))
        .order_by(table.chain, table.seq)
        .limit(BIG_PAGE)
    )
    last: OriginalRead | None = None
    while True:
        following = query
        if last is not None:
            same_chain = sa.and_(table.chain == last.chain, table.seq > last.seq)
            following = query.where(sa.or_(table.chain > last.chain, same_chain))
        with database.read() as connection:
            page = [OriginalRead(*row) for row in connection.execute(following)]
        yield from page
        if len(page) < BIG_PAGE:
            return
        last = page[-1]


def original(database: Database, chain: str, seq: int) -> bytes | None:
    """Return one sealed original, None if it was never kept or was erased."""
    table = audit_originals.c
    query = sa.select(table.sealed).where(table.chain == chain, table.seq == seq)
    with database.read() as connection:
        found = connection.scalar(query)
    return bytes(found) if found is not None else None
