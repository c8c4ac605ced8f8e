"""Keys of 32 random bytes that the gateway holds: from the environment, or a file that only its owner may read."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from azeotrope.core.errors import ConfigError, MissingError, RunError
from azeotrope.gateway.ledger.secret import Secret

SIZE = 32
LONGEST = 4096  # a key file is 65 bytes; whatever is longer is not one


def load_key(path: Path, variable: str = "", *, create: bool = True) -> Secret:
    """Return the key in the environment variable `variable`, or else in the file `path`.

    The file is made on first use if `create`. Either holds 64 hexadecimal digits. Processes that start together
    agree on one new file. Raises ConfigError for what is not a key and for a file that others may read,
    MissingError if there is none and `create` is False.
    """
    if variable and (text := os.environ.get(variable, "").strip()):
        return parse_key(text, f"The environment variable {variable}")
    try:
        return _read(path)
    except FileNotFoundError:
        if not create:
            raise MissingError(
                f"There is no key file '{path}'; copy it from where it was made"
                + (f", or set {variable}." if variable else ".")
            ) from None
    try:
        _make(path)
        return _read(path)
    except OSError as error:
        raise RunError(f"The key file '{path}' cannot be made: {error.strerror}.") from None


def parse_key(text: str, where: str) -> Secret:
    """Return the key written as 64 hexadecimal digits. Raises ConfigError (names `where`, quotes nothing)."""
    value = b""
    if len(text) == 2 * SIZE and text.isascii() and text.isalnum():
        with suppress(ValueError):
            value = bytes.fromhex(text)
    if len(value) != SIZE:
        raise ConfigError(
            f"{where} does not hold a key: 64 hexadecimal digits are needed, as `openssl rand -hex 32` makes."
        )
    return Secret(value)


def write_new(path: Path, text: str, mode: int) -> None:
    """Write a file that must not exist yet, whole or not at all. Raises FileExistsError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    finally:
        os.unlink(draft)


def _make(path: Path) -> None:
    with suppress(FileExistsError):  # another process was first: its key counts
        write_new(path, secrets.token_hex(SIZE) + "\n", 0o600)


def _read(path: Path) -> Secret:
    """Raises FileNotFoundError and ConfigError."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a pipe must not hang
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError(f"The key file '{path}' is not a regular file.")
            if mode & 0o077:
                raise ConfigError(f"The key file '{path}' may be read by others; run: chmod 600 '{path}'.")
            text = file.read(LONGEST).decode("ascii", errors="replace").strip()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"The key file '{path}' cannot be read: {error.strerror}.") from None
    return parse_key(text, f"The key file '{path}'")
