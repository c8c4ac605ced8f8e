"""`audit`: verify and export the audit log of a gateway."""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from azeotrope.cli.keys import DatabaseUrl, GatewayFolder, moment
from azeotrope.cli.out import AsJson, emit, say, show
from azeotrope.core.errors import AzeotropeError, ConfigError, RunError
from azeotrope.gateway.ledger.folder import FOLDER, Folder

if TYPE_CHECKING:
    from azeotrope.gateway.ledger.audit_read import RowRead
    from azeotrope.gateway.ledger.database import Database
    from azeotrope.gateway.ledger.sealed import Unsealer
    from azeotrope.gateway.ledger.verify import Report

SAID_EVERY = 2.0  # seconds between lines of progress

audit = typer.Typer(
    help="Verify and export the audit log of a gateway.", no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


@audit.callback()
def _audit() -> None:
    """Verify and export the audit log of a gateway."""


@audit.command("verify")
def verify_(
    heads: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File of signed heads, best a copy out of the operator's reach (default: the folder's).",
        ),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(metavar="CHAIN:ROWS:HASH", help="A head you kept, or a line of a heads file; repeatable."),
    ] = None,
    public_key: Annotated[
        list[str] | None,
        typer.Option(metavar="HEX", help="A key that signs heads; repeatable (default: audit_signing.pub)."),
    ] = None,
    originals: Annotated[
        bool, typer.Option("--originals", help="Compare the sealed originals with their rows too.")
    ] = False,
    folder: GatewayFolder = FOLDER,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Check that no row was changed, moved, deleted or cut off since it was written; exit code 4 if one was."""
    from azeotrope.gateway.ledger.audit_chain import Verifier, parse_public_key, read_public_keys
    from azeotrope.gateway.ledger.verify import parse_known_head, verify

    place = Folder(folder)
    trusted = [parse_public_key(text, "--public-key") for text in public_key or []]
    known = [parse_known_head(text) for text in head or []]
    file = heads or (place.heads if place.heads.is_file() else None)
    with _opened(folder, database) as log:
        report = verify(
            log, Verifier(trusted or read_public_keys(place.public_keys)), heads=file, known=known,
            originals=originals, progress=_progress("checked"),
        )  # fmt: skip
    if as_json:
        emit(_facts(report))
    else:
        show(*_lines(report))
    if not report.ok:
        found = len(report.problems) + report.unlisted
        raise RunError(f"The audit log is not intact: {found} problem{'s' * (found > 1)} found.")


@audit.command("export")
def export(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="File to write (default: stdout).")
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="WHEN", help="From this date or time on (UTC).")] = None,
    until: Annotated[str | None, typer.Option(metavar="WHEN", help="Before this date or time (UTC).")] = None,
    tenant: Annotated[str | None, typer.Option(metavar="NAME", help="Only this tenant's.")] = None,
    auditor_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An auditor's secret key: adds the originals that were sealed for it."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    folder: GatewayFolder = FOLDER,
    database: DatabaseUrl = None,
) -> None:
    """Write rows as JSON lines, by time: the row as it was hashed, its chain, number and hash."""
    from azeotrope.gateway.ledger.audit_read import pages_by_time
    from azeotrope.gateway.ledger.sealed import Unsealer
    from azeotrope.gateway.ledger.sealed import auditor_key as read_key

    unsealer = Unsealer(read_key(auditor_key, create=False)[0]) if auditor_key is not None else None
    span = {
        "since_ms": None if since is None else moment(since, ago=True),
        "until_ms": None if until is None else moment(until, ago=True),
    }
    written = 0
    said = _progress("written")
    with _opened(folder, database) as log, _target(out, force=force) as file:
        for page in pages_by_time(log, tenant=tenant, **span):
            for row in page:
                file.write(json.dumps(_exported(log, row, unsealer), ensure_ascii=False) + "\n")
            written += len(page)
            said(written, 0)
    if out is not None:
        show(f"{written} rows: {out}")


@audit.command("auditor-key")
def auditor_key(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", show_default=False, help="File of the secret key, made if it is new.")
    ],
    as_json: AsJson = False,
) -> None:
    """Make an auditor's key pair and print the public part, which goes into the gateway's settings."""
    from azeotrope.gateway.ledger.sealed import auditor_key as make

    _, public = make(file, create=True)
    if as_json:
        emit({"file": file, "public_key": public.hex()})
    else:
        say(f"The secret key is in '{file}': keep it away from the gateway. The public key:")
        show(public.hex())


@contextmanager
def _opened(folder: Path, database: str | None) -> Iterator[Database]:
    """Open the log without changing anything: an auditor may have no right to."""
    from azeotrope.gateway.ledger.database import open_database

    opened = open_database(database or Folder(folder).database, create=False)
    try:
        yield opened
    finally:
        opened.close()


def _progress(done: str) -> Callable[[int, int], None]:
    """Say now and then how far a long run is."""
    said = time.monotonic()

    def tell(rows: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= SAID_EVERY:
            said = time.monotonic()
            say(f"{rows} of {total} rows {done}" if total else f"{rows} rows {done}")

    return tell


def _facts(report: Report) -> dict[str, Any]:
    return {
        "intact": report.ok, "rows": report.rows, "chains": report.chains, "heads": report.heads,
        "unsigned_rows": report.unsigned, "originals": report.originals,
        "problems": [
            {"kind": one.kind, "chain": one.chain, "row": one.seq, "sound_to": one.sound, "message": one.message}
            for one in report.problems
        ],
        "problems_not_listed": report.unlisted, "notes": report.notes,
    }  # fmt: skip


def _lines(report: Report) -> Iterator[str]:
    state = "intact" if report.ok else "NOT intact"
    yield f"{state}: {report.rows} rows in {report.chains} chains, {report.heads} signed heads"
    yield from (problem.message for problem in report.problems)
    if report.unlisted:
        yield f"... and {report.unlisted} more."
    yield from (f"Note: {note}" for note in report.notes)


def _exported(log: Database, row: RowRead, unsealer: Unsealer | None) -> dict[str, Any]:
    from azeotrope.gateway.ledger.audit_read import original
    from azeotrope.gateway.ledger.audit_row import decode

    found: dict[str, Any] = {"chain": row.chain, "seq": row.seq, "hash": row.hash.hex(), "row": row.row}
    if unsealer is None:
        return found
    try:
        about = decode(row.row)
        sealed = original(log, row.chain, row.seq) if about.sealed else None
        if sealed is not None:
            opened = unsealer.open(sealed, row.chain, about.tenant, about.request_id)
            found["original"] = opened.reveal().decode("utf-8", errors="replace")
    except (AzeotropeError, ValueError) as error:
        found["original_problem"] = str(error)
    return found


@contextmanager
def _target(out: Path | None, *, force: bool) -> Iterator[TextIO]:
    """Open the file to write: whole or not at all, and for its owner only."""
    if out is None:
        yield sys.stdout
        return
    if out.exists() and not force:
        raise ConfigError(f"'{out}' exists; add --force to replace it.")
    draft = out.with_name(f".{out.name}.{secrets.token_hex(8)}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise RunError(f"'{out}' cannot be written: {error.strerror}.") from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            yield file
        os.replace(draft, out)
    finally:
        draft.unlink(missing_ok=True)
