"""Connections to Redis (or Valkey)."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from azeotrope.core.errors import ConfigError, MissingError

if TYPE_CHECKING:
    from redis.asyncio import Redis


def connect(url: str, *, timeout: float, connections: int) -> Redis:
    """A client with at most so many connections, none of which waits longer than `timeout` seconds.

    Raises ConfigError for what is no address of Redis; the address, which may hold a password, is not quoted.
    """
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    try:
        pool = BlockingConnectionPool.from_url(
            url, max_connections=connections, timeout=timeout, socket_timeout=timeout,
            socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0),
        )  # fmt: skip
    except ValueError:
        raise ConfigError("The URL of Redis must be redis://HOST:PORT/DB, rediss://... or unix://....") from None
    return Redis(connection_pool=pool)


def address(variable: str) -> str:
    """The address in an environment variable. Raises MissingError, also where the client is not installed."""
    try:
        import_module("redis")
    except ModuleNotFoundError:
        raise MissingError("Redis needs the package 'redis'; run: pip install 'azeotrope[shared]'.") from None
    if url := os.environ.get(variable):
        return url
    raise MissingError(f"The environment variable {variable} with the address of Redis is not set.")
