"""The audit log as requests see it: rows go in, and come back as receipts when they are durable.

One thread writes. Rows that come while it commits go into its next transaction together. If the database fails,
rows in the queue and new ones fail at once, with a reason, until the thread finds that it is back: whether a
request goes on without its row is the caller's choice.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import Field

from azeotrope.core.errors import AzeotropeError
from azeotrope.core.methods import Settings
from azeotrope.gateway.ledger.audit_chain import Head, Signer
from azeotrope.gateway.ledger.audit_row import AuditRow
from azeotrope.gateway.ledger.audit_writer import ChainWriter, Entry
from azeotrope.gateway.ledger.database import Database, DatabaseError
from azeotrope.gateway.ledger.heads_file import HeadsFile
from azeotrope.gateway.ledger.sealed import Sealer
from azeotrope.gateway.ledger.secret import Secret
from azeotrope.gateway.logs import log

PAUSE: Final = 0.1  # seconds between tries while there is patience


class AuditSettings(Settings):
    """How rows are gathered, and how often a head is signed."""

    rows: int = Field(default=10_000, ge=1, description="rows that may wait")
    megabytes: int = Field(default=64, ge=1, description="memory that waiting rows and originals may take")
    batch_rows: int = Field(default=500, ge=1, description="most rows in one transaction")
    group_seconds: float = Field(default=0.005, ge=0, le=1, description="shortest time between two transactions")
    head_seconds: float = Field(default=5.0, gt=0, description="a head is signed this often, if rows were written")
    head_rows: int = Field(default=5000, ge=1, description="and at the latest after so many rows")
    patience_seconds: float = Field(
        default=2.0, ge=0, description="how long a failing transaction is tried again before its rows fail"
    )
    retry_seconds: float = Field(default=1.0, gt=0, description="pause before a failed database is tried again")


class Receipt(NamedTuple):
    """Where a durable row is."""

    chain: str
    seq: int


class AuditError(AzeotropeError):
    """The row is not recorded (or it is not known to be)."""

    exit_code = 4


class AuditFullError(AuditError):
    """More rows wait than may."""


class AuditClosedError(AuditError):
    """The log was closed."""


class _Waiting(NamedTuple):
    entry: Entry
    future: asyncio.Future[Receipt]
    loop: asyncio.AbstractEventLoop


class AuditLog:
    """An open audit log with a chain of its own. The constructor blocks: make it before serving, after any fork.

    `problem` says why rows cannot be recorded just now ("" if they can), `heads_problem` why signed heads cannot
    be written to their file (rows are recorded all the same). `refused` counts rows that failed. Raises
    DatabaseError.
    """

    def __init__(
        self, database: Database, signer: Signer, heads: Path | None,
        settings: AuditSettings | None = None, sealer: Sealer | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings or AuditSettings()
        self.problem = ""
        self.heads_problem = ""
        self.refused = 0
        self._heads = HeadsFile(heads) if heads is not None else None
        self._queue: deque[_Waiting] = deque()
        self._bytes = 0
        self._closing = False
        self._changed = threading.Condition()
        self._pid = os.getpid()
        self._writer = ChainWriter(database, signer, sealer)
        self.chain = self._writer.chain
        self._keep_head(self._writer.head)
        self._thread = threading.Thread(target=self._run, name="azeotrope-audit", daemon=True)
        self._thread.start()

    def append(self, row: AuditRow, original: Secret | None = None) -> asyncio.Future[Receipt]:
        """Queue a row; the future ends when it is durable. Never blocks.

        `original` is kept sealed if the log has a sealer. The future fails with AuditError if the row is not
        recorded: AuditFullError if too many wait, AuditClosedError after `close`.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Receipt] = loop.create_future()
        future.add_done_callback(_seen)
        entry = Entry(row, original)
        with self._changed:
            error = self._refusal()
            if error is None:
                self._queue.append(_Waiting(entry, future, loop))
                self._bytes += entry.size
                self._changed.notify()
                return future
            self.refused += 1
        future.set_exception(error)
        return future

    async def close(self, timeout: float = 30.0) -> None:
        """Write what waits and a final head, and stop. Raises AuditError if that takes longer than `timeout`."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        await asyncio.to_thread(self._thread.join, timeout)
        if self._thread.is_alive():
            raise AuditError(
                f"The audit log could not be closed within {timeout:g} s; rows without a receipt may be missing."
            )
        if self.problem:
            raise AuditError(f"The audit log has no final head: {self.problem}")

    def _refusal(self) -> AuditError | None:
        if self._closing:
            return AuditClosedError("The audit log is closed.")
        if self.problem:
            return AuditError(self.problem)
        if self._full():
            return AuditFullError(f"{len(self._queue)} audit rows wait to be written; the database is too slow.")
        if os.getpid() != self._pid:
            return AuditError("The audit log was opened before this process was forked; open it in each process.")
        return None

    def _full(self) -> bool:
        return len(self._queue) >= self.settings.rows or self._bytes >= self.settings.megabytes << 20

    # What follows runs in the thread.

    def _run(self) -> None:
        batch: list[_Waiting] = []
        try:
            while not (self._closing and not self._queue):
                batch = self._take()
                if batch:
                    self._commit(batch)
                elif self._head_due():
                    self._sign()
                if self.problem:
                    self._wait_for_return()
            self._sign(final=True)
        except Exception as error:  # a bug: the log must not be silent about it
            self._fail(f"The audit log stopped ({type(error).__name__}); restart the gateway.", batch)
            raise

    def _take(self) -> list[_Waiting]:
        """Wait for rows, a head that is due or the end; return the rows of the next transaction."""
        with self._changed:
            while not self._queue and not self._closing:
                unsigned = self._writer.seq > self._writer.signed_seq
                if not self._changed.wait(max(0.0, self._until_head()) if unsigned else None) and self._head_due():
                    return []
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), self.settings.batch_rows))]
            self._bytes -= sum(waiting.entry.size for waiting in batch)
        return batch

    def _commit(self, batch: list[_Waiting]) -> None:
        """Write a batch, trying again while there is patience, and tell its callers."""
        began = time.monotonic()
        entries = [waiting.entry for waiting in batch]
        while True:
            try:
                seqs, head = self._writer.write(entries, with_head=self._head_due(len(entries)))
                break
            except DatabaseError as error:
                if time.monotonic() - began >= self.settings.patience_seconds:
                    self._fail(str(error), batch)
                    return
                time.sleep(PAUSE)
        self.refused += seqs.count(None)
        chain = self._writer.chain
        _report(
            (waiting, seq if seq is None else Receipt(chain, seq))
            for waiting, seq in zip(batch, seqs, strict=True)
        )
        if head is not None:
            self._keep_head(head)
        rest = began + self.settings.group_seconds - time.monotonic()
        if rest > 0 and not self._closing:
            time.sleep(rest)  # rows gather meanwhile

    def _head_due(self, more: int = 0) -> bool:
        rows = self._writer.seq + more - self._writer.signed_seq
        return rows > 0 and (rows >= self.settings.head_rows or self._until_head() <= 0)

    def _until_head(self) -> float:
        """Seconds until a head is due, if a row was written since the last."""
        return self._writer.signed_at + self.settings.head_seconds - time.monotonic()

    def _sign(self, *, final: bool = False) -> None:
        """Sign a head, trying again while there is patience and no row waits: a row's own tries say more."""
        if self.problem:
            return
        began = time.monotonic()
        while True:
            try:
                self._writer.settle_doubt()
                self._keep_head(self._writer.sign(final=final))
                return
            except DatabaseError as error:
                if time.monotonic() - began >= self.settings.patience_seconds:
                    self._fail(str(error))
                    return
            if self._queue:
                return
            time.sleep(PAUSE)

    def _keep_head(self, head: Head) -> None:
        """Append a committed head to the heads file; one that fails is made up for by the next."""
        if self._heads is None:
            return
        try:
            self._heads.append(head)
            self.heads_problem = ""
        except OSError as error:
            before = self.heads_problem
            self.heads_problem = f"Signed heads cannot be written to '{self._heads.path}': {error.strerror}."
            if self.heads_problem != before:
                log.error(self.heads_problem)

    def _fail(self, problem: str, batch: Iterable[_Waiting] = ()) -> None:
        """Refuse rows from now on, those of `batch` and of the queue too."""
        with self._changed:
            self.problem = problem
            lost = [*batch, *self._queue]
            self._queue.clear()
            self._bytes = 0
            self.refused += len(lost)
        _report((waiting, AuditError(problem)) for waiting in lost)

    def _wait_for_return(self) -> None:
        """Try the database until it takes a head again, or the log is closed."""
        while not self._closing:
            with self._changed:
                self._changed.wait(self.settings.retry_seconds)
            try:
                self._writer.settle_doubt()
                head = self._writer.sign()
            except DatabaseError as error:
                self.problem = str(error)
                continue
            self.problem = ""
            self._keep_head(head)
            return


def _report(outcomes: Iterable[tuple[_Waiting, Receipt | AuditError | None]]) -> None:
    """Tell the callers, with one wake-up for each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Receipt], Receipt | AuditError]]] = {}
    for waiting, outcome in outcomes:
        told = outcome or AuditError("The audit row cannot be recorded: a field does not have the type it should.")
        by_loop.setdefault(waiting.loop, []).append((waiting.future, told))
    for loop, told_all in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve_all, told_all)


def _resolve_all(told: list[tuple[asyncio.Future[Receipt], Receipt | AuditError]]) -> None:
    for future, outcome in told:
        if future.done():
            continue
        if isinstance(outcome, Receipt):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)


def _seen(future: asyncio.Future[Receipt]) -> None:
    if not future.cancelled():
        future.exception()  # who does not wait for a receipt is not told by a warning either
