"""Who asks, how much they may, what is recorded of it, and how suspicious it looks: one place, every part
optional.

Without keys everybody is one anonymous tenant; without limits nothing is refused; without an audit log nothing is
recorded. What happens when one of them is down is the policy's choice (`failing`).
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from azeotrope.gateway.ledger.audit_log import AuditError, AuditLog, AuditSettings
from azeotrope.gateway.ledger.audit_row import AuditRow, Digester
from azeotrope.gateway.ledger.database import Database, open_database
from azeotrope.gateway.ledger.folder import DATABASE_VARIABLE, Folder
from azeotrope.gateway.ledger.identity import Identity
from azeotrope.gateway.ledger.key_ring import KeyRing, KeyRingSettings
from azeotrope.gateway.ledger.key_store import KeyStore
from azeotrope.gateway.ledger.local_limits import LocalLimiter
from azeotrope.gateway.ledger.opening import open_audit_log
from azeotrope.gateway.ledger.quota import Lease, Limiter, LimitsDownError
from azeotrope.gateway.ledger.redis_link import address
from azeotrope.gateway.ledger.secret import Secret
from azeotrope.gateway.logs import log
from azeotrope.gateway.policy import Failing
from azeotrope.gateway.settings import LedgerSettings, LimitSettings

if TYPE_CHECKING:
    from azeotrope.gateway.case import Case
    from azeotrope.gateway.http import Scope

HOUR = 3600.0
ANONYMOUS = Identity(key_id="", tenant="anonymous", tier="")


class Suspicion(Protocol):
    """Whoever knows how suspicious traffic looks."""

    def start(self) -> None:
        """Begin."""
        ...

    def stop(self) -> None:
        """End. Blocks."""
        ...

    def observe(self, case: Case, scope: Scope) -> None:
        """Take a request in that was answered."""
        ...

    def level(self, identity: Identity) -> tuple[int, tuple[str, ...]]:
        """0 to 4, and the codes of the reasons."""
        ...


@dataclass(slots=True)
class Desk:
    """The parts that there are. `close` them when the server stops."""

    keys: KeyRing | None = None
    limiter: Limiter | None = None
    limits: LimitSettings | None = None
    audit: AuditLog | None = None
    digester: Digester | None = None
    database: Database | None = None
    suspicion: Suspicion | None = None

    async def who(self, header: str) -> Identity:
        """Whose key it is. Raises AuthError and AuthDownError."""
        return ANONYMOUS if self.keys is None else await self.keys.authenticate(header)

    async def admit(self, identity: Identity, estimate: int) -> Lease | None:
        """Reserve what a request may use. Raises LimitError and LimitsDownError."""
        if self.limiter is None or self.limits is None:
            return None
        return await self.limiter.admit(identity, self.limits.of(identity), estimate)

    def level(self, identity: Identity, failing: Failing) -> tuple[int, tuple[str, ...]]:
        """How suspicious the traffic of a key is. Raises LimitsDownError if that must be known and is not."""
        if self.suspicion is None:
            return 0, ()
        try:
            return self.suspicion.level(identity)
        except Exception:  # a bug in the detection must not end the service unless the policy says so
            log.exception("The detection failed.")
            if failing.signals == "closed":
                raise LimitsDownError(1.0) from None
            return 0, ()

    def observe(self, case: Case, scope: Scope) -> None:
        """Let the detection see a request that was answered."""
        if self.suspicion is None:
            return
        try:
            self.suspicion.observe(case, scope)
        except Exception:  # what was answered is answered
            log.exception("The detection failed.")

    async def record(self, row: AuditRow, failing: Failing, original: str = "") -> bool:
        """Write a row; return once it is durable. Whether it is. Raises AuditError where the policy is closed."""
        if self.audit is None:
            return True
        try:
            await self.audit.append(row, Secret(original) if original else None)
        except AuditError as error:
            if failing.audit == "closed":
                raise
            log.error("An audit row is missing, as the policy allows: %s", error)
            return False
        return True

    def recordable(self, failing: Failing) -> str:
        """Why no request can be taken because it could not be recorded; "" if it can, or need not be."""
        if self.audit is None or failing.audit == "open":
            return ""
        return self.audit.problem

    async def close(self) -> None:
        """Write what waits, and close everything."""
        async with AsyncExitStack() as stack:  # whatever fails, the others are closed
            if self.database is not None:
                stack.push_async_callback(asyncio.to_thread, self.database.close)
            if self.audit is not None:
                stack.push_async_callback(self._close_audit, self.audit)
            if self.limiter is not None:
                stack.push_async_callback(self.limiter.aclose)
            if self.keys is not None:
                stack.push_async_callback(self.keys.aclose)
            if self.suspicion is not None:
                stack.push_async_callback(asyncio.to_thread, self.suspicion.stop)

    async def _close_audit(self, audit: AuditLog) -> None:
        try:
            await audit.close()
        except AuditError as error:
            log.error("%s", error)


def open_desk(ledger: LedgerSettings, limits: LimitSettings, failing: Failing) -> Desk:
    """Open what the settings name. Blocks. Raises ConfigError, MissingError, DatabaseError."""
    desk = Desk(limits=limits if limits.any else None)
    if limits.any:
        desk.limiter = _limiter(limits, failing)
    if ledger.keys == "none" and not ledger.audit:
        return desk
    folder = Folder(ledger.folder)
    url = os.environ.get(ledger.database_env or DATABASE_VARIABLE) or folder.database
    desk.database = open_database(url, power_safe=ledger.power_safe)
    if ledger.keys == "required":
        desk.keys = KeyRing(KeyStore(desk.database, folder.pepper()), _believed(ledger.key_ring, failing))
    if ledger.audit:
        settings = AuditSettings() if ledger.audit_settings is None else ledger.audit_settings
        desk.audit = open_audit_log(desk.database, folder, settings, ledger.auditor)
        desk.digester = Digester(folder.digest_key())
    return desk


def _believed(given: KeyRingSettings | None, failing: Failing) -> KeyRingSettings:
    """How long keys are believed: while the database is down an hour, where the policy fails open."""
    found = given or KeyRingSettings()
    if failing.database == "open" and not found.stale_seconds:
        return found.model_copy(update={"stale_seconds": HOUR})
    return found


def _limiter(limits: LimitSettings, failing: Failing) -> Limiter:
    if limits.redis_env is None:
        return LocalLimiter()
    given = {"url": address(limits.redis_env), "when_down": failing.limits}
    from azeotrope.gateway.ledger.shared_limits import SharedLimiter, SharedSettings  # the client is an extra

    return SharedLimiter(SharedSettings.model_validate(given))
