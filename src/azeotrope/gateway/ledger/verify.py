"""Verification of the audit log: every chain from its first row to its last, against every signed head.

What is found: rows that were changed, deleted, inserted, moved or renumbered; chains rewritten from some row on,
cut short or deleted whole, if a head of them is known from the database, the heads file or the command line;
heads that no trusted key signed, and heads that somebody deleted. What cannot be found: rows lost after the last
head that is known, and, without heads kept out of the operator's reach, a log that the owner of the signing key
rewrote.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

from azeotrope.core.errors import ConfigError
from azeotrope.gateway.ledger import audit_read
from azeotrope.gateway.ledger.audit_chain import LETTERS, Head, Verifier, genesis, link, read_head
from azeotrope.gateway.ledger.audit_row import decode
from azeotrope.gateway.ledger.database import Database
from azeotrope.gateway.ledger.heads_file import read_heads
from azeotrope.gateway.ledger.schema import WITNESS
from azeotrope.gateway.ledger.sealed import sealed_digest

LISTED: Final = 100  # problems that are listed; the others are counted
IN_FILE, IN_DATABASE, GIVEN = 1, 2, 4

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Problem:
    """Something that should not be. `seq` is the row at which it shows, None if it is not about a row.

    `sound`: up to this row the chain is as a head before says; the cause is after it.
    """

    kind: str
    chain: str
    seq: int | None
    message: str
    sound: int = 0


@dataclass
class Report:
    """What verification found. `unsigned`: rows after the last head of their chain; `notes` are no problems."""

    rows: int = 0
    chains: int = 0
    heads: int = 0
    unsigned: int = 0
    originals: int = 0
    problems: list[Problem] = field(default_factory=list)
    unlisted: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def add(self, kind: str, chain: str, seq: int | None, message: str, sound: int = 0) -> None:
        """Note a problem."""
        if len(self.problems) < LISTED:
            self.problems.append(Problem(kind, _shown(chain), seq, _shown(message), sound))
        else:
            self.unlisted += 1


def _shown(text: object) -> str:
    """Whoever can write to the database must not write to the auditor's terminal, nor end the check."""
    text = text if isinstance(text, str) else repr(text)
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


class KnownHead(NamedTuple):
    """A head that somebody kept: after `seq` rows the chain had this hash."""

    chain: str
    seq: int
    hash: bytes


class _Known(NamedTuple):
    seq: int
    hash: bytes
    final: bool
    where: int


class _ChainHeads:
    """The heads of one chain, 41 bytes each."""

    __slots__ = ("flags", "hashes", "seqs")

    def __init__(self) -> None:
        self.seqs, self.hashes, self.flags = array("q"), bytearray(), bytearray()

    def add(self, seq: int, hash_: bytes, final: bool, where: int) -> None:
        self.seqs.append(seq)
        self.hashes += hash_
        self.flags.append(where | (8 if final else 0))

    def __len__(self) -> int:
        return len(self.seqs)

    def __iter__(self) -> Iterator[_Known]:
        """By number of rows."""
        for i in sorted(range(len(self.seqs)), key=self.seqs.__getitem__):
            flags = self.flags[i]
            yield _Known(self.seqs[i], bytes(self.hashes[32 * i : 32 * i + 32]), flags & 8 > 0, flags & 7)

    @property
    def last(self) -> int:
        return max(self.seqs, default=0)

    def only_in_file(self) -> list[int]:
        """The heads of the file that the database does not have."""
        found = []
        for seq, same in groupby(self, lambda head: head.seq):
            group = list(same)
            table = {head.final for head in group if head.where & IN_DATABASE}
            found += [seq for head in group if head.where & IN_FILE and head.final not in table]
        return found


def verify(
    database: Database, verifier: Verifier, *, heads: Path | None = None, known: Iterable[KnownHead] = (),
    originals: bool = False, progress: Progress | None = None,
) -> Report:  # fmt: skip
    """Check the whole log; `heads` is the heads file, `known` are heads that need no signature.

    With `originals` the sealed originals are compared with their rows too. `progress` is called with (rows done,
    rows there were at the start). Gateways may write meanwhile. Raises DatabaseError, MissingError, ConfigError.
    """
    report = Report()
    # Chains are named before heads are read, heads before rows, and the file before the table: what is written
    # meanwhile, by gateways that start meanwhile too, contradicts nothing.
    names = set(audit_read.chains(database))
    found: dict[str, _ChainHeads] = {}
    for head in known:
        found.setdefault(head.chain, _ChainHeads()).add(head.seq, head.hash, False, GIVEN)
    if heads is not None:
        _read_file(heads, verifier, found, report)
    _read_table(database, verifier, found, report)
    if heads is None and not any(head.where & GIVEN for kept in found.values() for head in kept):
        report.notes.append(
            "No heads file: a log cut back to an earlier signed head, or rewritten by the owner of the signing "
            "key, would pass."
        )
    total = audit_read.count_rows(database) if progress else 0
    sealed = 0
    for chain in sorted({*found, *names}, key=str):
        report.chains += 1
        sealed += _Walk(chain, found.pop(chain, _ChainHeads()), report).run(database, progress, total)
    if report.unsigned:
        report.notes.append(f"{report.unsigned} rows come after the last signed head of their chain.")
    if originals:
        _check_originals(database, sealed, report)
    return report


def parse_known_head(text: str) -> KnownHead:
    """Return a head given as ``CHAIN:SEQ:HASH`` or as the JSON line of a heads file. Raises ConfigError."""
    try:
        if text.lstrip().startswith("{"):
            head = read_head(text.strip())
            return KnownHead(head.chain, head.seq, bytes.fromhex(head.hash))
        chain, seq, hash_ = text.strip().split(":")
        if not chain or not LETTERS.issuperset(chain) or not seq.isascii() or not seq.isdigit() or len(seq) > 18:
            raise ValueError
        if len(value := bytes.fromhex(hash_)) != 32:
            raise ValueError
    except ValueError:
        raise ConfigError("A head is CHAIN:ROWS:HASH, or a line of a heads file.") from None
    return KnownHead(chain, int(seq), value)


def _read_file(path: Path, verifier: Verifier, found: dict[str, _ChainHeads], report: Report) -> None:
    for number, head, cut in read_heads(path):
        if head is None and cut:
            report.notes.append(f"Line {number} of '{path}' was cut off while it was written.")
        elif head is None:
            report.add("head", "", None, f"Line {number} of '{path}' is not a head.")
        elif _genuine(head, verifier, f"line {number} of '{path}'", report):
            found.setdefault(head.chain, _ChainHeads()).add(
                head.seq, bytes.fromhex(head.hash), head.final, IN_FILE
            )


def _read_table(database: Database, verifier: Verifier, found: dict[str, _ChainHeads], report: Report) -> None:
    for read in audit_read.heads(database):
        where = f"the database's head of chain '{read.chain}' at row {read.seq}"
        try:
            head, final = read_head(read.line), bool(read.final % WITNESS)
        except (ValueError, TypeError):
            head, final = None, False
        if head is None or (head.chain, head.seq, head.final) != (read.chain, read.seq, final):
            report.add("head", read.chain, read.seq, f"{_upper(where)} is not what it should be.")
        elif _genuine(head, verifier, where, report):
            kept = found.setdefault(head.chain, _ChainHeads())
            kept.add(head.seq, bytes.fromhex(head.hash), head.final, IN_DATABASE)
            report.heads += 1


def _genuine(head: Head, verifier: Verifier, where: str, report: Report) -> bool:
    if verifier.genuine(head):
        return True
    report.add("signature", head.chain, head.seq, f"{_upper(where)} is not signed by a key that is trusted.")
    return False


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


class _Walk:
    """One chain, row by row. A break is noted once and the walk goes on from the hash that is stored."""

    def __init__(self, chain: str, heads: _ChainHeads, report: Report) -> None:
        self.chain, self.report, self.heads = chain, report, heads
        self.coming = iter(heads)
        self.head = next(self.coming, None)  # the first that was not compared yet
        self.seq, self.hash = 0, genesis(chain)
        self.closed = min((head.seq for head in heads if head.final), default=None)
        self.matched = 0  # up to here the chain is as it was signed
        self.sealed = 0

    def run(self, database: Database, progress: Progress | None, total: int) -> int:
        """Walk to the end; return how many rows have a sealed original."""
        self._compare_heads()
        for page in audit_read.pages(database, self.chain):
            for row in page:
                self._step(row)
            if progress is not None:
                progress(self.report.rows, total)
        self._end()
        return self.sealed

    def _step(self, row: audit_read.RowRead) -> None:
        self.report.rows += 1
        if not _typed(row) or row.seq <= self.seq:
            self._add("inserted", None, f"There is a row with the number {row.seq!r:.40}, which no gateway wrote.")
            return
        first, last = self.seq + 1, row.seq - 1
        if first <= last:
            self._add("deleted", first, f"{_which(first, last)} missing.")
        elif link(self.hash, row.row) != row.hash:
            self._add(
                "changed", row.seq,
                f"Row {row.seq} does not follow the one before: it was changed, replaced or moved (or the one "
                "before was, with its hash).",
            )  # fmt: skip
        self.seq, self.hash = row.seq, row.hash
        if self.closed is not None and row.seq == self.closed + 1:
            self._add("appended", row.seq, f"Row {row.seq} comes after the final head.")
        self._check_columns(row)
        self._compare_heads()

    def _check_columns(self, row: audit_read.RowRead) -> None:
        try:
            stored = decode(row.row)
        except ValueError:
            self._add("form", row.seq, f"Row {row.seq} does not have the form of a row.")
            return
        self.sealed += stored.sealed != ""
        if (stored.time_ms, stored.tenant, stored.request_id) != (row.time_ms, row.tenant, row.request_id):
            self._add("columns", row.seq, f"Row {row.seq} differs from the columns beside it.")

    def _compare_heads(self) -> None:
        """Compare the heads of the row just read; those of missing rows before it say nothing more."""
        while (head := self.head) is not None and head.seq <= self.seq:
            self.head = next(self.coming, None)
            if head.seq < self.seq:
                continue
            if head.hash == self.hash:
                self.matched = head.seq
                continue
            first = self.matched + 1
            self._add(
                "rewritten", first,
                f"The chain is not the one that was signed: something in rows {first} to {head.seq} was changed, "
                "and the hashes after it made anew.",
            )  # fmt: skip

    def _end(self) -> None:
        first, last = self.seq + 1, self.heads.last
        if first <= last:
            rest = (
                f" No head vouches for rows {self.matched + 1} to {self.seq}." if self.matched < self.seq else ""
            )
            told = f"{_which(first, last)} missing at the end: a head counts {last} rows.{rest}"
            self._add("truncated", first, told)
        if not self.heads:
            self._add("unsigned", None, "The chain has no signed head at all.")
        self.report.unsigned += max(0, self.seq - last)
        if gone := self.heads.only_in_file():
            self._add("heads deleted", gone[0], f"{len(gone)} heads of the heads file are not in the database.")

    def _add(self, kind: str, seq: int | None, message: str) -> None:
        self.report.add(kind, self.chain, seq, f"Chain {self.chain}: {message}", self.matched)


def _typed(row: audit_read.RowRead) -> bool:
    """Whether the fields have their types: SQLite lets anybody store anything."""
    return isinstance(row.seq, int) and isinstance(row.hash, bytes) and isinstance(row.row, str)


def _which(first: int, last: int) -> str:
    return f"Row {first} is" if first == last else f"Rows {first} to {last} are"


def _check_originals(database: Database, sealed: int, report: Report) -> None:
    for read in audit_read.originals(database):
        report.originals += 1
        try:
            matches = read.row is not None and decode(read.row).sealed == sealed_digest(read.sealed)
        except (ValueError, TypeError):
            matches = False
        if not matches:
            message = f"Chain {read.chain}: The sealed original of row {read.seq} is not the one that was sealed."
            report.add("original", read.chain, read.seq, message)
    if sealed > report.originals:
        report.notes.append(f"{sealed - report.originals} sealed originals were erased.")
