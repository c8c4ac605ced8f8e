"""The tables, and how a database comes to have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from azeotrope.core.errors import ConfigError, MissingError

metadata = sa.MetaData()

facts = sa.Table(
    "gateway_facts",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

api_keys = sa.Table(
    "gateway_keys",
    metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("digest", sa.LargeBinary(32), nullable=False),
    sa.Column("old_digest", sa.LargeBinary(32)),
    sa.Column("old_until_ms", sa.BigInteger),
    sa.Column("tenant", sa.Text, nullable=False, index=True),
    sa.Column("tier", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_ms", sa.BigInteger),
    sa.Column("revoked_ms", sa.BigInteger),
    sa.Column("used_ms", sa.BigInteger),
)

# What stands in the columns after `row` stands in the row too; `audit verify` compares the two.
audit_rows = sa.Table(
    "audit_rows",
    metadata,
    sa.Column("chain", sa.String(48), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("hash", sa.LargeBinary(32), nullable=False),
    sa.Column("row", sa.Text, nullable=False),
    sa.Column("time_ms", sa.BigInteger, nullable=False, index=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False, index=True),
    sa.Index("ix_audit_rows_tenant_time", "tenant", "time_ms"),
)

# `final`: 0, 1 for a final head, or WITNESS for a head that another process signed (see `tails`).
audit_heads = sa.Table(
    "audit_heads",
    metadata,
    sa.Column("chain", sa.String(48), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("final", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("line", sa.Text, nullable=False),
)

audit_originals = sa.Table(
    "audit_originals",
    metadata,
    sa.Column("chain", sa.String(48), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
)

VERSION_NAME: Final = "schema"
WITNESS: Final = 2
LOCK: Final = 0x617A656F  # the advisory lock under which PostgreSQL databases are brought up to date


# Entry i brings a database from version i + 1 to i + 2; a new database gets the tables above at once. Whoever
# changes a table that was released adds a migration that makes the same change.
MIGRATIONS: tuple[Callable[[sa.Connection], None], ...] = ()


def latest() -> int:
    """Return the version of the tables above."""
    return 1 + len(MIGRATIONS)


def migrate(connection: sa.Connection, name: str) -> int:
    """Bring the database up to date inside the transaction of `connection`; return the version it had.

    Raises ConfigError, naming the database, if it was made by a newer program.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
    version = _version(connection, name)
    if version == 0:
        metadata.create_all(connection)
    for step in MIGRATIONS[version - 1 :] if version else ():
        step(connection)
    if version < latest():
        connection.execute(sa.delete(facts).where(facts.c.name == VERSION_NAME))
        connection.execute(sa.insert(facts).values(name=VERSION_NAME, value=str(latest())))
    return version


def check_version(connection: sa.Connection, name: str) -> None:
    """Raise ConfigError or MissingError unless the database has the tables of this program."""
    version = _version(connection, name)
    if version == 0:
        raise MissingError(f"The database '{name}' is not that of a gateway.")
    if version < latest():
        raise ConfigError(
            f"The database '{name}' has gateway schema {version}, and this program needs {latest()}; "
            "start the gateway once, and it is brought up to date."
        )


def _version(connection: sa.Connection, name: str) -> int:
    if not sa.inspect(connection).has_table(facts.name):
        return 0
    value = connection.scalar(sa.select(facts.c.value).where(facts.c.name == VERSION_NAME))
    version = int(value) if value is not None else 0
    if version > latest():
        raise ConfigError(
            f"The database '{name}' has gateway schema {version}, and this program knows {latest()}; "
            "install a newer azeotrope."
        )
    return version
