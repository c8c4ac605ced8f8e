"""The unsigned end of a chain whose process was killed: the next gateway that starts signs it.

Until then whoever can write to the database could change those last rows unseen. A process that still runs loses
nothing by it: that its chain has these rows now is true.
"""

from __future__ import annotations

import time
from typing import Final

import sqlalchemy as sa

from azeotrope.gateway.ledger import audit_read
from azeotrope.gateway.ledger.audit_chain import Head, Signer, Verifier, link, read_head
from azeotrope.gateway.ledger.database import ConflictError, Database
from azeotrope.gateway.ledger.schema import WITNESS, audit_heads, audit_rows

CHAINS: Final = 64  # the newest ones are looked at


def sign_tails(database: Database, signer: Signer, verifier: Verifier) -> list[Head]:
    """Sign the chains that go on after their last head and are sound up to their end; return the new heads.

    A chain that is not sound is left as it is, for `audit verify` to tell. Raises DatabaseError.
    """
    signed = []
    for chain in _newest(database):
        start = _last_head(database, chain, verifier)
        head = _sign(database, signer, start) if start is not None else None
        if head is not None:
            signed.append(head)
    return signed


def _newest(database: Database) -> list[str]:
    """The chains that began last: their ids begin with the time."""
    found: list[str] = []
    query = sa.select(sa.func.max(audit_rows.c.chain))
    while len(found) < CHAINS:
        with database.read() as connection:
            chain = connection.scalar(query if not found else query.where(audit_rows.c.chain < found[-1]))
        if not isinstance(chain, str):
            break
        found.append(chain)
    return found


def _last_head(database: Database, chain: str, verifier: Verifier) -> Head | None:
    """The last head of a chain, if it is genuine and the chain may go on after it."""
    table = audit_heads.c
    query = sa.select(table.line).where(table.chain == chain).order_by(table.seq.desc(), table.final).limit(1)
    closed = sa.select(table.seq).where(table.chain == chain, table.final == 1).limit(1)
    with database.read() as connection:
        line = connection.scalar(query)
        if line is None or connection.scalar(closed) is not None:
            return None
    try:
        head = read_head(line)
    except (ValueError, TypeError):
        return None
    return head if head.chain == chain and verifier.genuine(head) else None


def _sign(database: Database, signer: Signer, start: Head) -> Head | None:
    seq, hash_ = start.seq, bytes.fromhex(start.hash)
    for page in audit_read.pages(database, start.chain, after=start.seq):
        for row in page:
            if row.seq != seq + 1 or not isinstance(row.row, str) or link(hash_, row.row) != row.hash:
                return None
            seq, hash_ = row.seq, row.hash
    if seq == start.seq:
        return None
    head = signer.sign(start.chain, seq, hash_, final=False, time_ms=time.time_ns() // 1_000_000)
    try:
        with database.write() as connection:
            values = {"chain": head.chain, "seq": head.seq, "final": WITNESS, "line": head.line()}
            connection.execute(sa.insert(audit_heads).values(values))
    except ConflictError:  # another gateway that starts was first
        return None
    return head
