"""One database, by URL: SQLite (write-ahead log) by default, PostgreSQL when several machines share it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from azeotrope.core.errors import AzeotropeError, ConfigError, MissingError, RunError
from azeotrope.gateway.ledger.schema import check_version, migrate

BUSY_SECONDS: Final = 10.0  # how long a SQLite writer waits for another process
CONNECT_SECONDS: Final = 5
# A PostgreSQL that hangs, or whose machine is gone, must not hang the gateway.
STATEMENT_MS: Final = 15_000
_PATIENCE = {
    "connect_timeout": CONNECT_SECONDS,
    "tcp_user_timeout": STATEMENT_MS,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
}
_WRITE = "azeotrope_write"
_TAKE = "BEGIN IMMEDIATE"  # a writer takes the lock at once: upgrading a read lock could fail without any wait
_DRIVERS = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


class DatabaseError(RunError):
    """The database is down, full, locked, or refused a statement."""


class ConflictError(DatabaseError):
    """A row with this key is there already."""


@dataclass(frozen=True)
class Database:
    """An open database. `name` is its URL without the password. Any thread may use it."""

    engine: sa.Engine
    name: str

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection in a transaction that only reads. Raises DatabaseError."""
        with self._transaction(write=False) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A connection in a transaction that is committed at the end. Raises DatabaseError, ConflictError."""
        with self._transaction(write=True) as connection:
            yield connection

    def insert(self, rows: Mapping[sa.Table, Sequence[Mapping[str, Any]]]) -> None:
        """Commit rows of several tables together. Raises DatabaseError, ConflictError.

        For who writes all the time: on the driver's connection this takes half the processor time of `write`.
        """
        driver = self.engine.dialect.dbapi
        assert driver is not None
        try:
            raw = self.engine.raw_connection()
            try:
                self._insert(raw, rows)
            except BaseException:
                raw.invalidate()  # what it did, and whether it can do more, is not known
                raise
            finally:
                raw.close()
        except (IntegrityError, driver.IntegrityError) as error:
            raise ConflictError(self._told(error)) from None
        except (SQLAlchemyError, driver.Error) as error:
            raise DatabaseError(self._told(error)) from None

    def _insert(self, raw: sa.PoolProxiedConnection, rows: Mapping[sa.Table, Sequence[Mapping[str, Any]]]) -> None:
        with closing(raw.cursor()) as cursor:  # one that an error keeps alive would keep SQLite's lock too
            if self.engine.dialect.name == "sqlite":
                cursor.execute(_TAKE)
            for table, given in rows.items():
                if not given:
                    continue
                text, names = _insertion(table, self.engine.dialect)
                cursor.executemany(text, [tuple(row[name] for name in names) for row in given] if names else given)
            raw.commit()

    def close(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[sa.Connection]:
        try:
            options = {_WRITE: write}
            with self.engine.connect() as connection, connection.execution_options(**options).begin():
                yield connection
        except IntegrityError as error:
            raise ConflictError(self._told(error)) from None
        except SQLAlchemyError as error:
            raise DatabaseError(self._told(error)) from None

    def _told(self, error: Exception) -> str:
        """One sentence, with the driver's first line (parameters are never in it)."""
        cause = getattr(error, "orig", None) or error
        first = (str(cause).strip().splitlines() or [type(cause).__name__])[0].strip().rstrip(".")
        return f"The database '{self.name}' cannot be used: {first[:200]}."


def open_database(url: str, *, create: bool = True, power_safe: bool = True) -> Database:
    """Open the database and bring its tables up to date; without `create` nothing is changed.

    What is committed survives the end of this process in any case; without `power_safe` (faster, on disks that are
    slow to flush) the last moment before a power cut may be lost.

    `url` is ``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST:PORT/NAME``. Raises ConfigError (a URL that
    cannot be used, a newer schema), MissingError (no driver, no database), DatabaseError.
    """
    parsed = _parse(url)
    name = parsed.set(query={}).render_as_string(hide_password=True)  # a query may hold a password too
    if parsed.get_backend_name() == "sqlite":
        _check_file(parsed, name, create=create)
        engine = _sqlite(parsed, power_safe)
    else:
        engine = _postgres(parsed, power_safe)
    database = Database(engine, name)
    try:
        if not create:
            with database.read() as connection:
                check_version(connection, name)
            return database
        if engine.dialect.name == "sqlite":
            _use_wal(database)
        with database.write() as connection:
            if engine.dialect.name == "postgresql":
                _check_encoding(connection, name)
            migrate(connection, name)
    except AzeotropeError:
        database.close()
        raise
    return database


@lru_cache(16)
def _insertion(table: sa.Table, dialect: sa.Dialect) -> tuple[str, tuple[str, ...]]:
    """The text of an insertion as the driver wants it, and the columns in its order (none: it wants names)."""
    made = sa.insert(table).compile(dialect=dialect)
    return str(made), tuple(column.name for column in table.columns) if dialect.positional else ()


def _parse(url: str) -> sa.URL:
    scheme = url.partition(":")[0].partition("+")[0]
    if scheme not in _DRIVERS:
        raise ConfigError(
            "The database URL must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/NAME"
            + (f", not one of '{scheme}'." if "://" in url and scheme.isalnum() and len(scheme) < 20 else ".")
        )
    try:
        parsed = sa.make_url(url).set(drivername=_DRIVERS[scheme])
        parsed.get_dialect()
    except (ArgumentError, ValueError):
        raise ConfigError("The database URL cannot be read; see that special characters are %-escaped.") from None
    except (NoSuchModuleError, ModuleNotFoundError):  # pragma: no cover - SQLAlchemy ships both dialects
        raise MissingError(f"There is no driver for '{scheme}'; run: pip install 'azeotrope[gateway]'.") from None
    return parsed


def _check_file(url: sa.URL, name: str, *, create: bool) -> None:
    if url.database in (None, "", ":memory:") or url.query:
        raise ConfigError(f"'{name}' is not a file that processes can share; use sqlite:///FILE.")
    path = Path(str(url.database))
    if not create and not path.is_file():
        raise MissingError(f"There is no database '{path}'; give the folder or the URL of the gateway's.")
    try:
        if create:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # nobody else reads who asked what
    except OSError as error:
        raise RunError(f"The database file '{path}' cannot be opened: {error.strerror}.") from None


def _sqlite(url: sa.URL, power_safe: bool) -> sa.Engine:
    engine = sa.create_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_SECONDS})

    @sa.event.listens_for(engine, "connect")
    def set_up(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver's guesses
        connection.execute(f"PRAGMA synchronous = {'FULL' if power_safe else 'NORMAL'}")
        connection.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(_TAKE if connection.get_execution_options().get(_WRITE) else "BEGIN")

    return engine


def _use_wal(database: Database) -> None:
    """Switch to the write-ahead log. SQLite does not wait for its lock here, so we do."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        raw = None
        try:
            raw = database.engine.raw_connection()
            raw.cursor().execute("PRAGMA journal_mode = WAL")
            return
        except Exception as error:
            if "locked" not in str(error) or time.monotonic() > until:
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise DatabaseError(f"The database '{database.name}' cannot be used: {first[:200]}.") from None
            time.sleep(0.02)
        finally:
            if raw is not None:
                raw.close()


def _postgres(url: sa.URL, power_safe: bool) -> sa.Engine:
    try:
        engine = sa.create_engine(
            url, hide_parameters=True, pool_pre_ping=True, pool_recycle=1800, pool_timeout=CONNECT_SECONDS,
            connect_args={name: value for name, value in _PATIENCE.items() if name not in url.query},
        )  # fmt: skip
    except ModuleNotFoundError:
        raise MissingError("PostgreSQL needs the package 'psycopg'; run: pip install 'psycopg[binary]'.") from None

    @sa.event.listens_for(engine, "connect")
    def set_up(connection: Any, record: Any) -> None:
        connection.autocommit = True
        connection.execute(f"SET statement_timeout = {STATEMENT_MS}")
        if not power_safe:
            connection.execute("SET synchronous_commit = off")
        connection.autocommit = False

    return engine


def _check_encoding(connection: sa.Connection, name: str) -> None:
    encoding = connection.scalar(sa.text("SHOW server_encoding"))
    if encoding != "UTF8":
        raise ConfigError(f"The database '{name}' has the encoding {encoding}; create one with ENCODING 'UTF8'.")
