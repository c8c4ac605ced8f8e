"""What the gateway costs: beside a bare passthrough, and beside LiteLLM, before the same mock upstream in one run.

    python benchmarks/gateway_overhead.py [--litellm PATH/TO/litellm] [--rounds N] [--quick] [--json FILE]

Every server is one process on a port of its own. The gateway has all its parts on: keys, limits, an audit log in
SQLite with signed heads, extraction detection with a calibration, and TraceGuard. Processor time is that of the
server's process and its children, from the kernel's accounts, the worker of the detection among it. Servers take
turns in a random order each round; figures are medians and quartiles over rounds. `no flush` is the gateway with
`power_safe: false`: rows outlive the process (kill -9), not a power cut.

`request`  CPU of a reply of 64 tokens that is not streamed, 32 connections that ask at once.
`chunk`    CPU of a streamed reply of 1,000 chunks over the number of chunks, 8 connections.
`added`    latency over that of the upstream itself, which answers after 100 ms; 32 connections, a new request as
           soon as the last one is answered, so the server is not saturated. Connections begin one after the other
           over those 100 ms: all at once, they would wait for each other in every round ever after.
`calm`     the same where the upstream takes a second, as a model that writes does: 32 requests a second.
`large`    CPU of a request of 100,000 tokens (400 KB).
`memory`   resident memory of the gateway while it streams `--chunks` chunks (10^6).

`throughput` is that of the 32 connections that ask at once; on two cores the client and the upstream have one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import aiohttp
import yaml

HERE = Path(__file__).resolve().parent
TICK = os.sysconf("SC_CLK_TCK")
POLICY = """
azeotrope_gateway: 1
stances:
  guard: {fidelity: omission, distillability: lowered, defenses: [{kind: traceguard, unit: count, budget: 3}]}
contexts: [{name: all, stance: guard}]
"""
DELAY = 100  # milliseconds
SLOW = 1000
LARGE = 400_000  # characters


@dataclass
class Server:
    """A server under test. `pid` is the root of its processes; `headers` what a client sends."""

    name: str
    url: str
    pid: int
    model: str = "mock"
    headers: dict[str, str] = field(default_factory=dict)

    def cpu(self) -> float:
        """Processor seconds of the process, its threads and its children that live."""
        return sum(_cpu(pid) for pid in tree(self.pid))

    def resident(self) -> float:
        """Resident megabytes."""
        total = 0
        for pid in tree(self.pid):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return total * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True)
class Figure:
    """A median over rounds, with quartiles."""

    server: str
    what: str
    unit: str
    value: float
    low: float
    high: float
    rounds: int


def tree(root: int) -> list[int]:
    """A process and all below it."""
    below: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        below.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, left = [], [root]
    while left:
        found.append(left.pop())
        left += below.get(found[-1], [])
    return found


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICK


def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(command: Sequence[str], folder: Path, **environment: str) -> Iterator[int]:
    """Run a server until the benchmark ends; what it says goes to a file."""
    with (folder / f"log_{secrets.token_hex(3)}.txt").open("wb") as log:
        started = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env={**os.environ, **environment}, start_new_session=True
        )
        try:
            yield started.pid
        finally:
            started.terminate()
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()


def asgi(target: str, number: int) -> list[str]:
    return [
        sys.executable, "-m", "granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", str(number),
        "--no-ws", "--log-level", "error", "--backpressure", "10000", "--working-dir", str(HERE / "gateway_parts"),
        target,
    ]  # fmt: skip


async def up(url: str, seconds: float = 90.0) -> None:
    """Wait until a server answers at all."""
    end = time.monotonic() + seconds
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(url):
                    return
            except aiohttp.ClientError:
                if time.monotonic() > end:
                    raise SystemExit(f"Nothing answers at {url}.") from None
                await asyncio.sleep(0.1)


def start(stack: ExitStack, folder: Path, litellm: str | None) -> list[Server]:
    """Start the mock and the servers before it."""
    behind = port()
    mock = f"http://127.0.0.1:{behind}"
    found = [Server("upstream", mock, stack.enter_context(process(asgi("upstream:app", behind), folder)))]
    number = port()
    pid = stack.enter_context(process(asgi("passthrough:app", number), folder, PASSTHROUGH_TARGET=mock))
    found.append(Server("passthrough", f"http://127.0.0.1:{number}", pid))
    found.append(_gateway(stack, folder, mock, "azeotrope"))
    found.append(_gateway(stack, folder, mock, "azeotrope, no flush", power_safe=False))
    if litellm:
        found.append(_litellm(stack, folder, mock, litellm))
    for server in found:
        asyncio.run(up(f"{server.url}/healthz", 240.0))
    return found


def _gateway(stack: ExitStack, folder: Path, mock: str, name: str, *, power_safe: bool = True) -> Server:
    from azeotrope.gateway.signals.calibration import save
    from azeotrope.gateway.signals.simulate.trial import QUICK_ALPHA, QUICK_SIZES, calibrate

    folder = folder / name.replace(", ", "_").replace(" ", "_")
    folder.mkdir()
    secret = secrets.token_hex(32)
    made = calibrate(sizes=QUICK_SIZES, alpha=QUICK_ALPHA, secret=secret.encode())
    save(made, folder / "calibration.json")
    (folder / "policy.yaml").write_text(POLICY)
    number = port()
    generous = {"requests_per_minute": 10**8, "tokens_per_minute": 10**11, "concurrent": 10**5}
    settings = {
        "listen": {"port": number}, "upstreams": {"mock": {"url": f"{mock}/v1"}}, "policy": "policy.yaml",
        "ledger": {
            "keys": "required", "audit": True, "folder": str(folder / "ledger"), "power_safe": power_safe
        },
        "limits": {"key": generous, "tenant": generous},
        "signals": {"calibration": "calibration.json", "batch": [{"tenant": "bench", "until": "2100-01-01"}]},
    }  # fmt: skip
    (folder / "server.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-c", "from azeotrope.cli import main; main()"]
    key = [*command, "keys", "create", "--tenant", "bench", "--folder", str(folder / "ledger"), "--json"]
    shown = json.loads(subprocess.run(key, capture_output=True, check=True, text=True).stdout)
    pid = stack.enter_context(
        process([*command, "serve", "-c", str(folder / "server.yaml")], folder, AZEOTROPE_SIGNALS_SECRET=secret)
    )
    return Server(name, f"http://127.0.0.1:{number}", pid, headers={"Authorization": f"Bearer {shown['key']}"})


def _litellm(stack: ExitStack, folder: Path, mock: str, litellm: str) -> Server:
    number = port()
    plan = {"model": "openai/mock", "api_base": f"{mock}/v1", "api_key": "none"}
    key = f"sk-{secrets.token_hex(32)}"
    general = {"master_key": key}
    settings = {"model_list": [{"model_name": "mock", "litellm_params": plan}], "general_settings": general}
    (folder / "litellm.yaml").write_text(yaml.safe_dump(settings))
    command = [litellm, "--config", str(folder / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(number)]
    pid = stack.enter_context(process(command, folder, LITELLM_LOG="ERROR", LITELLM_TELEMETRY="False"))
    return Server("litellm", f"http://127.0.0.1:{number}", pid, headers={"Authorization": f"Bearer {key}"})


async def drive(
    server: Server, asked: dict[str, Any], total: int, connections: int, spread: float = 0.0
) -> list[float]:
    """Ask `total` times over so many connections, begun within `spread` seconds; the seconds each reply took."""
    data, took = json.dumps({"model": server.model, **asked}).encode(), []
    headers = {"content-type": "application/json", **server.headers}
    left = iter(range(total))
    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def one(number: int) -> None:
            await asyncio.sleep(number * spread / connections)
            for _ in left:
                began = time.perf_counter()
                async with session.post(f"{server.url}/v1/chat/completions", data=data) as reply:
                    while await reply.content.readany():
                        pass
                    if reply.status != 200:
                        raise SystemExit(f"{server.name} answered {reply.status}.")
                took.append(time.perf_counter() - began)

        await asyncio.gather(*map(one, range(connections)))
    return took


def asking(text: str = "What is seven and three?", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


def spend(
    server: Server, asked: dict[str, Any], total: int, connections: int, spread: float = 0.0
) -> tuple[float, float, list[float]]:
    """Processor seconds, seconds, and what each reply took."""
    before, began = server.cpu(), time.perf_counter()
    took = asyncio.run(drive(server, asked, total, connections, spread))
    seconds = time.perf_counter() - began
    time.sleep(0.2)  # for what the server does after its answers
    return server.cpu() - before, seconds, took


def rounds(servers: list[Server], count: int, quick: bool, told: Any) -> list[Figure]:
    """All figures but memory's."""
    n = 200 if quick else 2000
    found: dict[tuple[str, str, str], list[float]] = {}
    for number in range(count):
        base: dict[str, dict[str, float]] = {}
        order = [servers[0], *random.Random(number).sample(servers[1:], len(servers) - 1)]
        for server in order:
            told(f"round {number + 1} of {count}: {server.name}")

            def note(what: str, unit: str, value: float, name: str = server.name) -> None:
                found.setdefault((name, what, unit), []).append(value)

            if not number:
                spend(server, asking(max_tokens=64), 64, 8)  # what a first request makes
            slow = server.name == "litellm"
            some = n // 5 if slow else n
            cpu, seconds, _ = spend(server, asking(max_tokens=64), some, 32)
            note("request", "ms of CPU", cpu / some * 1000)
            note("throughput", "requests/s", some / seconds)
            streams = 4 if quick else 8 if slow else 40
            cpu, _, _ = spend(server, asking(max_tokens=1000, stream=True), streams, 8 if streams >= 8 else 4)
            note("chunk", "µs of CPU", cpu / streams / 1000 * 1e6)
            for name, delay, total in (("", DELAY, n // 2), (", calm", SLOW, n // 5)):
                _, _, took = spend(server, asking(max_tokens=64, seed=delay), total, 32, delay / 1000)
                cut = {"p50": median(took), "p99": quantiles(took, n=100)[98]}
                if server is servers[0]:
                    base[name] = cut
                for what, value in cut.items():
                    note(f"{what} added{name}", "ms", (value - base[name][what]) * 1000)
            big = 10 if quick else 50
            cpu, _, _ = spend(server, asking("word " * (LARGE // 5), max_tokens=64), big, 4)
            note("large", "ms of CPU", cpu / big * 1000)
    return [_figure(*name, values) for name, values in found.items()]


def _figure(server: str, what: str, unit: str, values: list[float]) -> Figure:
    low, middle, high = (values * 3)[:3] if len(values) == 1 else quantiles(values, n=4, method="inclusive")
    return Figure(server, what, unit, middle, low, high, len(values))


def memory(server: Server, chunks: int, told: Any) -> list[tuple[int, float]]:
    """Resident megabytes after so many chunks."""
    spend(server, asking(max_tokens=1000, stream=True), 8, 8)
    step = max(1, chunks // 1000 // 10)
    found = [(0, server.resident())]
    for number in range(1, 11):
        spend(server, asking(max_tokens=1000, stream=True), step, 8)
        found.append((number * step * 1000, server.resident()))
        told(f"{found[-1][0]} chunks: {found[-1][1]:.0f} MB")
    return found


def markdown(figures: list[Figure], curve: list[tuple[int, float]]) -> str:
    """The section of docs/benchmarks.md."""
    names = list(dict.fromkeys(figure.server for figure in figures))
    kinds = list(dict.fromkeys((figure.what, figure.unit) for figure in figures))
    of = {(figure.server, figure.what): figure for figure in figures}
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for what, unit in kinds:
        cells = []
        for name in names:
            one = of.get((name, what))
            cells.append("" if one is None else f"{one.value:.3g} [{one.low:.3g}, {one.high:.3g}]")
        lines.append(f"| {what}, {unit} | " + " | ".join(cells) + " |")
    told = ", ".join(f"{chunks:,}: {size:.0f}" for chunks, size in curve)
    load = os.getloadavg()[0]
    return "\n".join(
        [
            f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
            f"{figures[0].rounds} rounds, load at the end {load:.1f}. Medians and quartiles over rounds.",
            "",
            *lines,
            "",
            f"Resident memory of the gateway in MB by chunks streamed: {told}.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--litellm", help="the program of a LiteLLM that is installed elsewhere")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chunks", type=int, default=10**6)
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args(argv)

    def told(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        servers = start(stack, Path(name), given.litellm)
        figures = rounds(servers, 1 if given.quick else given.rounds, given.quick, told)
        gateway = next(server for server in servers if server.name == "azeotrope")
        curve = memory(gateway, 10_000 if given.quick else given.chunks, told)
    if given.json:
        given.json.write_text(json.dumps({"figures": [asdict(f) for f in figures], "memory": curve}, indent=1))
    print(markdown(figures, curve))


if __name__ == "__main__":
    main()
