"""API keys in the database: made, listed, rotated, revoked. Everything here blocks; requests use `key_ring`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec
import sqlalchemy as sa

from azeotrope.core.errors import ConfigError, MissingError
from azeotrope.gateway.ledger.database import ConflictError, Database
from azeotrope.gateway.ledger.key_text import (
    ID_LETTERS,
    ID_SIZE,
    fingerprint,
    full_text,
    key_digest,
    new_id,
    new_secret,
)
from azeotrope.gateway.ledger.schema import api_keys, facts
from azeotrope.gateway.ledger.secret import Secret

NAME_LENGTH: Final = 128
NOTE_LENGTH: Final = 500
DEFAULT_TIER: Final = "default"
LAST_MS: Final = 253_402_300_799_000  # the end of the year 9999
_PEPPER = "pepper"

State = Literal["active", "expired", "revoked"]


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a key. Times are milliseconds since 1970. Digests are not shown."""

    id: str
    tenant: str
    tier: str
    note: str
    created_ms: int
    expires_ms: int | None = None
    revoked_ms: int | None = None
    used_ms: int | None = None
    old_until_ms: int | None = None
    digest: Secret
    old_digest: Secret | None = None

    def state(self, now_ms: int) -> State:
        """Return whether the key works at `now_ms`."""
        if self.revoked_ms is not None:
            return "revoked"
        return "expired" if self.expires_ms is not None and self.expires_ms <= now_ms else "active"


class NewKey(NamedTuple):
    """A key just made. `text` is the only place where its secret is: show it once and forget it."""

    record: KeyRecord
    text: Secret


def now_ms() -> int:
    """Return the time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class KeyStore:
    """The keys of one database.

    `pepper` must be the one its keys were made with: a database remembers the fingerprint of the first.
    `listeners` are called with the id of every key that this object changes, after the change.

    Raises ConfigError for another pepper, DatabaseError.
    """

    def __init__(self, database: Database, pepper: Secret) -> None:
        self.database, self.pepper = database, pepper
        self.listeners: list[Callable[[str], None]] = []
        self._claim(fingerprint(pepper))

    def create(
        self, tenant: str, tier: str = DEFAULT_TIER, note: str = "", *, expires_ms: int | None = None
    ) -> NewKey:
        """Make a key. Raises ConfigError for names that cannot be used, DatabaseError."""
        now = now_ms()
        _check_name("tenant", tenant)
        _check_name("tier", tier)
        _check_note(note)
        if expires_ms is not None and not now < expires_ms <= LAST_MS:
            raise ConfigError("A key must expire in the future, and before the year 10000.")
        for last in (False, False, True):
            key_id, secret = new_id(self.pepper), new_secret()
            values = {
                "id": key_id, "digest": key_digest(self.pepper, secret), "tenant": tenant, "tier": tier,
                "note": note, "created_ms": now, "expires_ms": expires_ms,
            }  # fmt: skip
            try:
                with self.database.write() as connection:
                    connection.execute(sa.insert(api_keys).values(values))
                break
            except ConflictError:  # an id drawn twice: there are 2^50, yet it costs a line
                if last:
                    raise
        return NewKey(self._get(key_id), full_text(key_id, secret))

    def rotate(self, key_id: str, overlap_ms: int) -> NewKey:
        """Give a key a new secret; the secret it had works for `overlap_ms` longer, any older one stops at once.

        Raises MissingError, ConfigError for a key that no longer works or an overlap out of range, DatabaseError.
        """
        now = now_ms()
        if not 0 <= overlap_ms <= LAST_MS - now:
            raise ConfigError("The overlap must not be negative, and end before the year 10000.")
        secret = new_secret()
        with self.database.write() as connection:
            record = _find(connection, key_id, lock=True)
            if record is None:
                raise _unknown(key_id)
            if (state := record.state(now)) != "active":
                raise ConfigError(f"The key '{key_id}' is {state} and cannot be rotated; create another.")
            changed = {
                "digest": key_digest(self.pepper, secret),
                "old_digest": record.digest.reveal() if overlap_ms else None,
                "old_until_ms": now + overlap_ms if overlap_ms else None,
            }
            connection.execute(sa.update(api_keys).where(api_keys.c.id == key_id).values(changed))
        self._tell(key_id)
        return NewKey(self._get(key_id), full_text(key_id, secret))

    def revoke(self, key_id: str) -> KeyRecord:
        """Stop a key for good; a second time changes nothing. Raises MissingError, DatabaseError."""
        unrevoked = sa.and_(api_keys.c.id == _id(key_id), api_keys.c.revoked_ms.is_(None))
        with self.database.write() as connection:
            connection.execute(sa.update(api_keys).where(unrevoked).values(revoked_ms=now_ms()))
        self._tell(key_id)
        return self._get(key_id)

    def list(self, tenant: str | None = None) -> list[KeyRecord]:
        """Return the keys, oldest first, of one tenant or of all. Raises ConfigError, DatabaseError."""
        query = sa.select(api_keys).order_by(api_keys.c.created_ms, api_keys.c.id)
        if tenant is not None:
            _check_name("tenant", tenant)
            query = query.where(api_keys.c.tenant == tenant)
        with self.database.read() as connection:
            return [_record(row._asdict()) for row in connection.execute(query)]

    def find(self, key_id: str) -> KeyRecord | None:
        """Return a key by its public id. Raises DatabaseError."""
        with self.database.read() as connection:
            return _find(connection, key_id)

    def mark_used(self, used: Iterable[tuple[str, int]]) -> None:
        """Note when keys were last used, as (id, milliseconds); a later note stands. Raises DatabaseError."""
        rows = [
            {"key": key_id, "at": at} for key_id, at in sorted(used)
        ]  # in order: no two writers wait in a ring
        if not rows:
            return
        column = api_keys.c.used_ms
        older = sa.or_(column.is_(None), column < sa.bindparam("at"))
        query = sa.update(api_keys).where(api_keys.c.id == sa.bindparam("key"), older)
        with self.database.write() as connection:
            connection.execute(query.values(used_ms=sa.bindparam("at")), rows)

    def _get(self, key_id: str) -> KeyRecord:
        record = self.find(key_id)
        if record is None:
            raise _unknown(key_id)
        return record

    def _tell(self, key_id: str) -> None:
        for listener in self.listeners:
            listener(key_id)

    def _claim(self, mark: str) -> None:
        """Remember the pepper's fingerprint, or compare it with the one remembered."""
        query = sa.select(facts.c.value).where(facts.c.name == _PEPPER)
        with self.database.read() as connection:
            known = connection.scalar(query)
        if known is None:
            try:
                with self.database.write() as connection:
                    connection.execute(sa.insert(facts).values(name=_PEPPER, value=mark))
                return
            except ConflictError:  # another process was first
                with self.database.read() as connection:
                    known = connection.scalar(query)
        if known != mark:
            raise ConfigError(
                f"The keys in '{self.database.name}' were made with another pepper, so none would work; "
                "give the gateway the pepper it had."
            )


def _find(connection: sa.Connection, key_id: str, *, lock: bool = False) -> KeyRecord | None:
    query = sa.select(api_keys).where(api_keys.c.id == _id(key_id))
    row = connection.execute(query.with_for_update() if lock else query).first()
    return _record(row._asdict()) if row is not None else None


def _id(key_id: str) -> str:
    """Return what can be an id, or else one that no key has: PostgreSQL refuses some characters."""
    return key_id if len(key_id) == ID_SIZE and ID_LETTERS.issuperset(key_id) else "-"


def _record(row: Mapping[str, Any]) -> KeyRecord:
    fields: dict[str, Any] = dict(row)
    fields["digest"] = Secret(fields["digest"])
    fields["old_digest"] = Secret(fields["old_digest"]) if fields["old_digest"] is not None else None
    return KeyRecord(**fields)


def _unknown(key_id: str) -> MissingError:
    shown = f" '{key_id}'" if _id(key_id) == key_id else ""
    return MissingError(f"There is no key{shown}; `azeotrope keys list` shows the ids (never the secret part).")


def _check_name(what: str, name: str) -> None:
    if not name or len(name) > NAME_LENGTH or not name.isprintable() or name != name.strip():
        raise ConfigError(
            f"A {what} is 1 to {NAME_LENGTH} printable characters without spaces around it (got {len(name)})."
        )


def _check_note(note: str) -> None:
    if len(note) > NOTE_LENGTH or not note.isprintable():
        raise ConfigError(f"A note is one line of at most {NOTE_LENGTH} printable characters.")
