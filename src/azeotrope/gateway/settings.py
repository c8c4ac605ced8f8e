"""The server's file: upstreams, models, and what the gateway leans on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from azeotrope.core.errors import ConfigError, MissingError, nearest
from azeotrope.core.methods import Settings, explain
from azeotrope.gateway.ledger.audit_log import AuditSettings
from azeotrope.gateway.ledger.folder import FOLDER
from azeotrope.gateway.ledger.identity import Identity
from azeotrope.gateway.ledger.key_ring import KeyRingSettings
from azeotrope.gateway.ledger.quota import NO_QUOTA, Limits, Quota
from azeotrope.gateway.signals.settings import WatchSettings
from azeotrope.gateway.status.settings import StatusSettings
from azeotrope.gateway.traces.settings import TelemetrySettings

MEGABYTE = 1 << 20
Dialect = Literal["chat", "completions", "responses", "messages"]
Tags = Literal["auto", "opened", "none"]


class Timeouts(Settings):
    """Seconds. `first`: from the request's end to the first byte; `chunk`: between two pieces."""

    connect: float = Field(5.0, gt=0)
    first: float = Field(120.0, gt=0)
    chunk: float = Field(60.0, gt=0)
    total: float = Field(1800.0, gt=0)


class UpstreamSettings(Settings):
    """A server that answers. `url` is the base, with `/v1` where there is one; `key_env` names a variable.

    `tags`: where reasoning stands between tags in the text, whether the template opens them ("opened") or the
    model does ("auto"); "none" where the server always tells reasoning apart itself. `wants_reasoning`: the
    upstream refuses a tool's result without the reasoning before the call; where that is not known to the vault
    any more, "empty" sends an empty one and "refuse" tells the client. `shows`: what the upstream can return
    beside text. `tell_cached`: a count of cached tokens tells a tenant that somebody sent the same beginning
    before; it leaves only where tenants share no cache, or where this says so.
    """

    url: str
    dialect: Literal["chat", "responses", "messages"] = "chat"
    key_env: str | None = None
    key_file: Path | None = None
    header: Literal["authorization", "x-api-key"] = "authorization"
    tags: Tags = "auto"
    wants_reasoning: bool = False
    missing_reasoning: Literal["empty", "refuse"] = "empty"
    shows: Literal["text", "logprobs"] = "text"
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    cache_salt: bool = Field(False, description="send a salt for each tenant (vLLM): no cache is shared")
    tell_cached: bool | None = Field(
        None,
        description="tell clients how many tokens of a prompt were cached (default: where a salt is sent, "
        "which takes keys, and a server that heeds it)",
    )
    timeouts: Timeouts = Timeouts()
    retries: int = Field(2, ge=0, le=5, description="of requests that nothing was answered to")
    connections: int = Field(1000, ge=1)
    largest_reply: int = Field(64 * MEGABYTE, ge=1024, description="bytes of a reply that is not streamed")

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("write an address such as http://127.0.0.1:8000/v1")
        return value.rstrip("/")

    @property
    def tells_cached(self) -> bool:
        """Whether clients are told how many tokens of their prompt were cached."""
        return self.cache_salt if self.tell_cached is None else self.tell_cached

    def key(self, environment: Mapping[str, str] = os.environ) -> str | None:
        """The key, from its variable or file. Raises MissingError if it is named and not there."""
        if self.key_env is not None:
            if not environment.get(self.key_env):
                raise MissingError(f"The environment variable {self.key_env} with the upstream's key is not set.")
            return environment[self.key_env].strip()
        if self.key_file is not None:
            try:
                return self.key_file.read_text(encoding="utf-8").strip()
            except OSError:
                raise MissingError(f"The upstream's key file {self.key_file} cannot be read.") from None
        return None


class TeacherSettings(Settings):
    """A model of one's own, served by this process. `task` is what defenses that need data of the model's use.

    `tags` as for upstreams; a tag that the model's chat template writes after the conversation is seen here.
    """

    model: str = "embedded/teacher"
    task: str = "lookup"
    temperature: float = Field(0.6, gt=0, le=2, description="where a request says none, and for calibration")
    rows: int = Field(64, ge=1, description="replies that are written at a time")
    tags: Tags = "auto"
    timeouts: Timeouts = Field(Timeouts(first=600.0), description="`first` holds the time in line")


TEACHER = "teacher"  # the name of that upstream


class ModelSettings(Settings):
    """A model that clients may name: where it is served and under which name. `tiers`: who may use it (all)."""

    upstream: str
    served: str | None = Field(None, description="the upstream's name for it; the same by default")
    tiers: tuple[str, ...] = ()


class Listen(Settings):
    """Where clients connect. `largest_body` in bytes."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    workers: int = Field(1, ge=1, le=64)
    largest_body: int = Field(32 * MEGABYTE, ge=1024)
    head_seconds: float = Field(
        30.0, ge=0.001, le=86_400, description="in which a request's head must have arrived"
    )
    body_seconds: float = Field(30.0, gt=0, description="in which a request must have arrived")
    stuck_seconds: float = Field(
        60.0, gt=0, description="a client that takes nothing of a stream for so long is gone"
    )
    log_requests: bool = Field(False, description="a line on stderr for every request")
    metrics_token_env: str | None = Field(
        None, description="names the variable with the token of /metrics; without it, only loopback serves them"
    )
    overhead_header: bool = Field(False, description="X-Azeotrope-Overhead-Ms on replies")
    drain: float = Field(30.0, ge=0, description="seconds that requests under way have to end when it is stopped")

    @property
    def loopback(self) -> bool:
        """Whether nobody else's machine can connect."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False


class VaultSettings(Settings):
    """Where hidden reasoning is kept between the turns of a tool call.

    `redis_env` names a variable with the address of Redis: then all processes have what one of them was told.
    Without it each keeps up to `megabytes` of its own.
    """

    redis_env: str | None = None
    megabytes: int = Field(64, ge=1)
    hours: float = Field(6.0, gt=0)


class LimitSettings(Settings):
    """What one key may use, by its tier, and all keys of a tenant together, by its name.

    A tenant's limits do not depend on the tier of the key at hand: its keys share their counters. `redis_env`
    names a variable with the address of Redis: then processes count together.
    """

    key: Quota = NO_QUOTA
    tiers: dict[str, Quota] = Field(default_factory=dict)
    tenant: Quota = NO_QUOTA
    tenants: dict[str, Quota] = Field(default_factory=dict)
    redis_env: str | None = None

    @property
    def any(self) -> bool:
        """Whether anything is limited."""
        return any(q != NO_QUOTA for q in (self.key, self.tenant, *self.tiers.values(), *self.tenants.values()))

    def of(self, identity: Identity) -> Limits:
        """The limits of a key."""
        return Limits.model_construct(  # both were checked when the file was read
            key=self.tiers.get(identity.tier, self.key), tenant=self.tenants.get(identity.tenant, self.tenant)
        )


class LedgerSettings(Settings):
    """Where keys and audit rows are. `database_env` names a variable with the database's address (PostgreSQL).

    `auditor` is the public key that originals of altered replies are sealed for, where a stance says `seal`.
    """

    folder: Path = FOLDER
    database_env: str | None = None
    keys: Literal["required", "none"] = "none"
    audit: bool = False
    auditor: str = ""
    power_safe: bool = Field(True, description="rows survive a power cut, not only the end of the process")
    key_ring: KeyRingSettings | None = None
    audit_settings: AuditSettings | None = None


class BatchSettings(Settings):
    """A tenant that has declared batch work: its stance is not raised until a time and up to a volume a day.

    `until` is a date, or a time with its offset (without: UTC); tokens are weighted as the detection weighs them,
    and 0 means no bound.
    """

    tenant: str = Field(min_length=1)
    until: datetime
    tokens_per_day: float = Field(0.0, ge=0)
    note: str = ""

    @property
    def end(self) -> float:
        """The end in Unix seconds."""
        return (self.until if self.until.tzinfo else self.until.replace(tzinfo=UTC)).timestamp()


class SignalSettings(Settings):
    """Extraction detection. Without a `calibration` it counts and raises nothing.

    `secret_env` names a variable with the secret under which prompts and addresses are hashed. `links`: what two
    tenants may share that makes them look like one. `log`: a file for what the detection is told, without any
    text, which `azeotrope signals calibrate` reads.
    """

    calibration: Path | None = None
    secret_env: str = "AZEOTROPE_SIGNALS_SECRET"
    links: tuple[Literal["ip", "agent"], ...] = ("ip", "agent")
    batch: tuple[BatchSettings, ...] = ()
    log: Path | None = None
    log_megabytes: int = Field(1024, ge=1, description="size at which the log ends")
    watch: WatchSettings = WatchSettings()


class ServerFile(Settings):
    """The server's file as written in YAML."""

    azeotrope_server: Literal[1] = 1
    listen: Listen = Listen()
    upstreams: dict[str, UpstreamSettings] = Field(default_factory=dict)
    teacher: TeacherSettings | None = None
    models: dict[str, ModelSettings] = Field(default_factory=dict)
    policy: Path | None = None
    ledger: LedgerSettings = LedgerSettings()
    limits: LimitSettings = LimitSettings()
    vault: VaultSettings = VaultSettings()
    signals: SignalSettings | None = None
    status: StatusSettings | None = None
    telemetry: TelemetrySettings | None = None

    @model_validator(mode="after")
    def _known_upstreams(self) -> Self:
        names = self.names
        if not names:
            raise ValueError("there is nobody to ask: give 'upstreams', or a 'teacher'")
        if TEACHER in self.upstreams:
            raise ValueError(f"'{TEACHER}' is the name of the local model; rename that upstream")
        for name, model in self.models.items():
            if model.upstream not in names:
                raise ValueError(
                    f"model '{name}': no upstream '{model.upstream}'.{nearest(model.upstream, names)}"
                )
        return self

    @property
    def names(self) -> list[str]:
        """The upstreams, the local model among them."""
        return [*self.upstreams, *([TEACHER] if self.teacher else [])]

    def find(self, model: str) -> tuple[str, str] | None:
        """The name of a model's upstream, and the model's name there; None for a model that there is not.

        Without `models`, the only upstream serves whatever is named.
        """
        if not self.models and len(self.names) == 1:
            return self.names[0], model
        known = self.models.get(model)
        return None if known is None else (known.upstream, known.served or model)


def parse_settings(raw: Any, where: str) -> ServerFile:
    """Settings from plain values. Raises ConfigError, which never quotes an address that holds a password."""
    upstreams = raw.get("upstreams") if isinstance(raw, dict) else None
    for name, one in upstreams.items() if isinstance(upstreams, dict) else ():
        url = one.get("url") if isinstance(one, dict) else None
        if isinstance(url, str) and "@" in url.partition("://")[2].partition("/")[0]:
            raise ConfigError(f"{where}: the address of upstream '{name}' must not hold a password; use key_env.")
    try:
        return ServerFile.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, '', ServerFile)}") from None


def load_settings(path: Path) -> ServerFile:
    """Read the server's file. Raises MissingError and ConfigError."""
    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError(f"There is no server file {path}; check the path.") from None
    except (OSError, UnicodeDecodeError):
        raise MissingError(f"The server file {path} cannot be read.") from None
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        raise ConfigError(f"{path}{f', line {place.line + 1}' if place else ''} is not valid YAML.") from None
    found = parse_settings(raw, str(path))
    return _placed(found, path.parent)


def _placed(found: ServerFile, folder: Path) -> ServerFile:
    """The settings with paths that are relative to the file's folder."""
    if found.policy is not None:
        found = found.model_copy(update={"policy": folder / found.policy})
    if found.signals is not None:
        paths = {name: getattr(found.signals, name) for name in ("calibration", "log")}
        placed = {name: None if path is None else folder / path for name, path in paths.items()}
        found = found.model_copy(update={"signals": found.signals.model_copy(update=placed)})
    return found
