"""What an endpoint is asked, what it answered and what that cost, in one SQLite file for several processes.

A request is booked at its worst case before it is sent, and corrected when its outcome is known; both are on
disk. So a cap holds across processes, and a run that is killed leaves what it may have spent booked. Amounts are
whole billionths of a currency unit.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Literal, Self

from azeotrope.core.errors import RunError
from azeotrope.core.seeds import fingerprint
from azeotrope.core.types import Problem
from azeotrope.models.endpoint_settings import EndpointSettings

FORMAT = 1
BUSY_S = 60.0  # how long to wait for another process that writes

_TABLES = (
    """CREATE TABLE replies (
        key TEXT PRIMARY KEY, content TEXT NOT NULL, reasoning TEXT NOT NULL, finish TEXT NOT NULL,
        tokens_in INTEGER, tokens_out INTEGER)""",
    """CREATE TABLE accounts (
        url TEXT NOT NULL, model TEXT NOT NULL, spent INTEGER NOT NULL, requests INTEGER NOT NULL,
        PRIMARY KEY (url, model))""",
    f"PRAGMA user_version = {FORMAT}",
)
_CHUNK = 500  # keys in one query

Reader = Callable[[Mapping[str, Any]], tuple[str, str]]  # a choice of a reply -> `content` and `reasoning` to keep
Usage = tuple[int | None, int | None]  # prompt and completion tokens; None is unknown
UNKNOWN: Usage = (None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One request. `bound_in` and `bound_out` are the most tokens that it can be billed for."""

    problem: Problem
    seed: int
    key: str
    body: bytes
    bound_in: int
    bound_out: int

    def cost(self, settings: EndpointSettings, usage: Usage = UNKNOWN) -> int:
        """Cost in billionths; what is not known counts at its bound."""
        bounds = (self.bound_in, self.bound_out)
        tokens = [bound if said is None else said for bound, said in zip(bounds, usage, strict=True)]
        return settings.price(*tokens)


@dataclass(frozen=True, slots=True)
class Reply:
    """One completion as the server sent it; token counts are None where it did not say."""

    content: str
    reasoning: str = ""
    finish: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """What was spent (billionths) and how many requests were sent, on one model of one server."""

    spent: int = 0
    requests: int = 0


class Cache:
    """The cache file, seen from one model of one server. Safe to use from several threads.

    Raises RunError if the file cannot be used, is damaged or is something else.
    """

    def __init__(self, path: Path, url: str, model: str) -> None:
        self.path, self._who, self._lock = path, (url, model), Lock()
        with self._speaking():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Autocommit: every transaction below is written out.
            self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._speaking():
            self._db.close()

    def find(self, keys: Sequence[str]) -> dict[str, Reply]:
        """The stored replies among `keys`."""
        found: dict[str, Reply] = {}
        with self._speaking():
            for start in range(0, len(keys), _CHUNK):
                part = keys[start : start + _CHUNK]
                marks = ",".join("?" * len(part))
                columns = "key, content, reasoning, finish, tokens_in, tokens_out"
                rows = self._db.execute(f"SELECT {columns} FROM replies WHERE key IN ({marks})", part)
                found.update((row[0], Reply(*row[1:])) for row in rows)
        return found

    @contextmanager
    def alone(self, keys: Sequence[str]) -> Iterator[None]:
        """Wait while another thread or process asks for the very same completions, so that none is paid twice.

        The operating system lets go of what a killed process held. Where it has no such locks (Windows), nothing
        is waited for.
        """
        lock = self.path.with_name(f"{self.path.name}.{fingerprint(sorted(keys), 16)}.lock")
        with self._speaking():  # what waits here waits for others: this object is used by one thread so far
            handle = _locked(lock)
        try:
            yield
        finally:
            if handle is not None:
                with suppress(OSError):
                    lock.unlink()  # still ours: whoever waits for it looks again
                os.close(handle)

    def account(self) -> Account:
        """What was spent so far, requests under way included at their worst case."""
        with self._speaking():
            return self._account()

    def book(
        self, worst: int, max_cost: int, max_requests: int | None
    ) -> Literal["max_cost", "max_requests"] | None:
        """Book a request that is about to be sent, or return the name of the cap that it would break."""
        with self._speaking(), self._transaction():
            now = self._account()
            if now.spent + worst > max_cost:
                return "max_cost"
            if max_requests is not None and now.requests >= max_requests:
                return "max_requests"
            self._db.execute(
                "INSERT INTO accounts VALUES (?, ?, ?, 1) ON CONFLICT (url, model) "
                "DO UPDATE SET spent = spent + excluded.spent, requests = requests + 1",
                (*self._who, worst),
            )
            return None

    def settle(self, change: int, key: str, reply: Reply | None) -> None:
        """Correct a booking by `change`, and keep the reply if there is one: both or neither."""
        with self._speaking(), self._transaction():
            self._db.execute(
                "UPDATE accounts SET spent = spent + ? WHERE url = ? AND model = ?", (change, *self._who)
            )
            if reply is not None:
                row = (reply.content, reply.reasoning, reply.finish, reply.tokens_in, reply.tokens_out)
                self._db.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?, ?)", (key, *row))

    def _account(self) -> Account:
        query = "SELECT spent, requests FROM accounts WHERE url = ? AND model = ?"
        row = self._db.execute(query, self._who).fetchone()
        return Account(*row) if row else Account()

    def _prepare(self) -> None:
        self._to_wal()
        with self._transaction():
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            empty = not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if version == 0 and empty:
                for statement in _TABLES:
                    self._db.execute(statement)
            elif version != FORMAT:
                raise RunError(f"'{self.path}' is not a completion cache of this version; name another file.")

    def _to_wal(self) -> None:
        """Let others read while one writes. The switch itself does not wait for them, so it is retried."""
        end = time.monotonic() + BUSY_S
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(0.01)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Hold the lock, and turn what SQLite says into one sentence."""
        with self._lock:
            try:
                yield
            except (sqlite3.OperationalError, OSError) as error:
                raise RunError(
                    f"The completion cache '{self.path}' cannot be used ({error}); check that its folder is "
                    "writable and the disk has room, or name another file with the setting 'cache'."
                ) from None
            except sqlite3.DatabaseError as error:
                raise RunError(
                    f"The completion cache '{self.path}' is damaged ({error}); move it away to start a new one, "
                    "which will know neither the completions nor what they cost."
                ) from None


def _locked(path: Path) -> int | None:
    """A descriptor of `path`, held by nobody else. None where there are no such locks."""
    try:
        import fcntl
    except ImportError:  # pragma: no cover - Windows
        return None
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except FileNotFoundError:  # removed by its last holder, as it may also be replaced by the next one
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
