"""`keys`: the API keys of a gateway. A secret is printed once, when it is made, and never again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from azeotrope.cli.out import AsJson, emit, say, show, table
from azeotrope.core.errors import ConfigError
from azeotrope.gateway.ledger.folder import DATABASE_VARIABLE, FOLDER, FOLDER_VARIABLE, Folder

if TYPE_CHECKING:
    from azeotrope.gateway.ledger.key_store import KeyRecord, KeyStore, NewKey

GatewayFolder = Annotated[
    Path,
    typer.Option(
        "--folder", metavar="DIR", envvar=FOLDER_VARIABLE,
        help="The gateway's folder: its keys, its heads file and, unless --database is given, its database.",
    ),
]  # fmt: skip
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database", metavar="URL", envvar=DATABASE_VARIABLE, show_default=False,
        help="sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/NAME (default: gateway.db in the folder).",
    ),
]  # fmt: skip
Name = Annotated[str, typer.Argument(metavar="ID", show_default=False, help="The public part of the key.")]

_SPAN = re.compile(r"([0-9]{1,6})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

keys = typer.Typer(
    help="Make, list, rotate and revoke the API keys of a gateway.", no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


@keys.callback()
def _keys() -> None:
    """Make, list, rotate and revoke the API keys of a gateway."""


@keys.command("create")
def create(
    tenant: Annotated[str, typer.Option(metavar="NAME", help="Whose key it is: limits and audit go by tenant.")],
    tier: Annotated[str, typer.Option(metavar="NAME", help="The name by which the policy knows it.")] = "default",
    note: Annotated[str, typer.Option(metavar="TEXT", help="A reminder of what the key is for.")] = "",
    expires: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="A span (90d, 12h) or a date (2027-01-31, UTC) (default: never)."),
    ] = None,
    folder: GatewayFolder = FOLDER,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it: the only time that it can be seen."""
    with opened(folder, database, create=True) as store:
        made = store.create(tenant, tier, note, expires_ms=None if expires is None else moment(expires))
    _tell_new(made, as_json)


@keys.command("list")
def list_(
    tenant: Annotated[str | None, typer.Option(metavar="NAME", help="Only this tenant's.")] = None,
    folder: GatewayFolder = FOLDER,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """List the keys, without their secrets."""
    with opened(folder, database) as store:
        found = [facts(record) for record in store.list(tenant)]
    if as_json:
        emit(found)
        return
    columns = ("id", "tenant", "tier", "state", "created", "expires", "last used", "note")
    table("", columns, [[one[name.replace(" ", "_")] for name in columns] for one in found])


@keys.command("revoke")
def revoke(
    key: Name, folder: GatewayFolder = FOLDER, database: DatabaseUrl = None, as_json: AsJson = False
) -> None:
    """Stop a key for good; running gateways follow within seconds."""
    with opened(folder, database) as store:
        record = store.revoke(key)
    if as_json:
        emit(facts(record))
    else:
        show(f"Revoked {record.id} of {record.tenant}. Running gateways follow within their cache time.")


@keys.command("rotate")
def rotate(
    key: Name,
    overlap: Annotated[str, typer.Option(metavar="SPAN", help="How long the old secret still works.")] = "24h",
    folder: GatewayFolder = FOLDER,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Give a key a new secret and print it; the old one works a while longer."""
    with opened(folder, database) as store:
        made = store.rotate(key, 0 if overlap == "0" else span_ms(overlap))
    _tell_new(made, as_json)


@contextmanager
def opened(folder: Path, database: str | None, *, create: bool = False) -> Iterator[KeyStore]:
    """Open the keys of a gateway; without `create` its pepper and its database must be there."""
    from azeotrope.gateway.ledger.database import open_database
    from azeotrope.gateway.ledger.key_store import KeyStore

    place = Folder(folder)
    pepper = place.pepper(create=create)
    opened = open_database(database or place.database, create=create)
    try:
        yield KeyStore(opened, pepper)
    finally:
        opened.close()


def span_ms(text: str) -> int:
    """Return the milliseconds of a span like 30m, 24h, 90d. Raises ConfigError."""
    match = _SPAN.fullmatch(text)
    if match is None:
        raise ConfigError("A span of time is a number and a unit: 90s, 30m, 24h, 7d or 2w.")
    return int(match[1]) * _SECONDS[match[2]] * 1000


def moment(text: str, *, ago: bool = False) -> int:
    """Return the milliseconds since 1970 of a date or time (UTC), or of a span from now, or `ago`.

    Raises ConfigError.
    """
    if _SPAN.fullmatch(text):
        return int(datetime.now(UTC).timestamp() * 1000) + (-span_ms(text) if ago else span_ms(text))
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError("A time is a span (90d), a date (2027-01-31) or an ISO 8601 time.") from None
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


def when(ms: int | None) -> str | None:
    """Return a time as people and programs read it."""
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def facts(record: KeyRecord) -> dict[str, Any]:
    """Return what may be shown of a key."""
    state = record.state(int(datetime.now(UTC).timestamp() * 1000))
    return {
        "id": record.id, "tenant": record.tenant, "tier": record.tier, "state": state, "note": record.note,
        "created": when(record.created_ms), "expires": when(record.expires_ms), "revoked": when(record.revoked_ms),
        "last_used": when(record.used_ms), "old_secret_until": when(record.old_until_ms),
    }  # fmt: skip


def _tell_new(made: NewKey, as_json: bool) -> None:
    if as_json:
        emit({"key": made.text.text(), **facts(made.record)})
        return
    known = facts(made.record)
    say(f"Key {known['id']} of {known['tenant']}, tier {known['tier']}. It is shown this once: store it now.")
    if known["old_secret_until"]:
        say(f"The old secret works until {known['old_secret_until']}.")
    show(made.text.text())
