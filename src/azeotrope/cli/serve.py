"""`serve`: the gateway, in front of an OpenAI-compatible server; `probe`: what that server does with reasoning."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from azeotrope.cli.out import AsJson, emit, say, show

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="The server's file (upstreams, models, ...)."),
]
Address = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The upstream, such as http://127.0.0.1:8000/v1, without a file."),
]


def serve(
    config: Config = None,
    upstream: Address = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Serve this model ourselves (default, if no upstream is named: the embedded teacher).",
        ),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The policy (default: the file's, or the built-in one).")
    ] = None,
    host: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Where to listen (127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on (8080).")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Server processes (1).")] = None,
) -> None:
    """Serve defended replies in front of an OpenAI-compatible server, until it is stopped.

    What it answers, and which fields it accepts, is published at /openapi.json.
    """
    from azeotrope.gateway import boot
    from azeotrope.gateway.settings import ServerFile

    settings = _settings(config, upstream, teacher)
    listen = {k: v for k, v in {"host": host, "port": port, "workers": workers}.items() if v is not None}
    changes: dict[str, Any] = {"listen": settings.listen.model_copy(update=listen)}
    if policy is not None:
        changes["policy"] = policy.resolve()
    settings = ServerFile.model_validate(settings.model_copy(update=changes).model_dump())
    gateway = boot.build(settings, ledger=False)  # what is wrong is said here, before anybody listens
    for warning in gateway.policy.current.warnings:
        say(f"Warning: {warning}.")
    if settings.listen.workers > 1 and settings.vault.redis_env is None:
        say("Warning: a tool's result may reach a process without the reasoning before it; set vault.redis_env.")
    if not settings.listen.loopback and settings.listen.metrics_token_env is None:
        say("Warning: /metrics is not served beyond this machine without a token; set listen.metrics_token_env.")
    if settings.listen.workers > 1 and settings.limits.any and settings.limits.redis_env is None:
        say(f"Warning: {settings.listen.workers} processes count limits apart; set limits.redis_env.")
    if settings.signals is not None and settings.ledger.keys == "none":
        say("Warning: without keys the detection sees everybody as one; set 'ledger: {keys: required}'.")
    os.environ.update(boot.environment(settings))
    where = f"http://{settings.listen.host}:{settings.listen.port}"
    behind = [one.url for one in settings.upstreams.values()]
    behind += [settings.teacher.model] if settings.teacher else []
    say(f"Azeotrope gateway at {where}, in front of {', '.join(behind)}; policy {gateway.policy.current.hash}.")
    asyncio.run(gateway.stop())
    with boot.together(settings):
        _granian(settings)


def probe(
    config: Config = None,
    upstream: Address = None,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="The model as the upstream calls it (default: those of the file).")
    ] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens that the reply may have.")] = 1024,
    json: AsJson = False,
) -> None:
    """Ask every upstream's models one question, to see whether `tags` says where their reasoning is.

    Where a chat template opens the reasoning and `tags` does not say so, a gateway takes it for an answer. One
    short request for each model is sent (and billed). Exit code 2: a setting is wrong; 4: it could not be told.
    """
    from azeotrope.core.errors import ConfigError, RunError
    from azeotrope.gateway.probe import asked, look

    if config is None and upstream is None:
        raise ConfigError("Give --config or --upstream: who should be asked?")
    settings = _settings(config, upstream, None)

    async def ask() -> list[Any]:
        pairs = asked(settings, model)
        return [await look(name, settings.upstreams[name], served, max_tokens) for name, served in pairs]

    found = asyncio.run(ask())
    if json:
        emit([{**asdict(one), "fits": one.fits} for one in found])
    else:
        show(*(one.sentence for one in found))
    if any(one.told and not one.fits for one in found):
        raise ConfigError("A setting of 'tags' is wrong: see above.")
    if not all(one.told for one in found):
        raise RunError("Not of every model it could be told where its reasoning is: see above.")


def _settings(config: Path | None, upstream: str | None, teacher: str | None) -> Any:
    from azeotrope.core.errors import ConfigError
    from azeotrope.gateway.settings import load_settings, parse_settings

    if sum(one is not None for one in (config, upstream, teacher)) > 1:
        raise ConfigError("Give one of --config, --upstream and --teacher; a file can name several upstreams.")
    if config is not None:
        return load_settings(config)
    if upstream is not None:
        return parse_settings({"upstreams": {"main": {"url": upstream}}}, "--upstream")
    return parse_settings({"teacher": {"model": teacher} if teacher else {}}, "--teacher")


def _granian(settings: Any) -> None:
    """Run the server processes."""
    from granian.constants import Interfaces
    from granian.log import LogLevels
    from granian.server import Server

    from azeotrope.gateway.listening import options

    listen = settings.listen
    Server(
        "azeotrope.gateway.boot:make",
        factory=True,
        address=listen.host,
        port=listen.port,
        interface=Interfaces.ASGI,
        workers=listen.workers,
        log_access=False,
        log_level=LogLevels.warning,
        workers_kill_timeout=int(listen.drain) + 5,
        **options(listen),
    ).serve()
