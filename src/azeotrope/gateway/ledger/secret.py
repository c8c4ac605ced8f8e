"""Secrets that do not show."""

from __future__ import annotations

import hmac
from typing import Any, NoReturn, Self

SHOWN = "<secret>"


class Secret:
    """Bytes that no repr, str, format, log or pickle gives away; `reveal` is the only way to them."""

    __slots__ = ("__bytes", "__keyed")

    def __init__(self, value: bytes | str) -> None:
        self.__bytes = value.encode() if isinstance(value, str) else bytes(value)
        self.__keyed: hmac.HMAC | None = None

    def reveal(self) -> bytes:
        """Return the secret itself. Use it at once; never keep, print or log what this returns."""
        return self.__bytes

    def keyed(self) -> hmac.HMAC:
        """Return HMAC-SHA256 under the secret, before any message; the key is set up once."""
        if self.__keyed is None:
            self.__keyed = hmac.new(self.__bytes, digestmod="sha256")
        return self.__keyed.copy()

    def sign(self, message: bytes) -> bytes:
        """Return HMAC-SHA256(secret, message)."""
        keyed = self.keyed()
        keyed.update(message)
        return keyed.digest()

    def text(self) -> str:
        """Return the secret as text, for the one time that it is shown to its owner."""
        return self.__bytes.decode()

    def __repr__(self) -> str:
        return SHOWN

    def __format__(self, spec: str) -> str:
        return SHOWN

    def __eq__(self, other: object) -> bool:
        return hmac.compare_digest(self.__bytes, other.__bytes) if isinstance(other, Secret) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("A secret is never pickled.")
