"""What is counted, for Prometheus. No label holds a key, a tenant or anything that a client wrote."""

from __future__ import annotations

from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
LONG = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Metrics:
    """One registry; every gateway has its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"azeotrope_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"azeotrope_{name}", text, labels, buckets=buckets, registry=self.registry)

        self.requests = counter(
            "requests", "requests by dialect, status and stance", "dialect", "status", "stance"
        )
        self.tokens = counter("tokens", "tokens that the upstream billed", "kind")
        self.characters = counter("reasoning_characters", "characters of reasoning that came and left", "way")
        self.chunks = counter("upstream_chunks", "events of upstreams' streams")
        self.altered = counter("altered_replies", "replies whose reasoning is not what the model wrote")
        self.failures = counter("upstream_failures", "replies that an upstream did not finish", "code")
        self.gone = counter("disconnects", "clients that went before the end")
        self.active = Gauge("azeotrope_active_requests", "requests under way", registry=self.registry)
        self.overhead = histogram("overhead_seconds", "the gateway's own work on a request", SECONDS)
        self.chunk = histogram("chunk_overhead_seconds", "the gateway's own work on a chunk, by request", SECONDS)
        self.duration = histogram(
            "request_seconds", "from the first byte in to the last byte out", LONG, "dialect"
        )
        self.reloads = counter("policy_reloads", "policy files read again", "outcome")
        self._request = cache(lambda *labels: self.requests.labels(*labels))
        self._duration = cache(self.duration.labels)
        self._prompt, self._completion = self.tokens.labels("prompt"), self.tokens.labels("completion")
        self._came, self._left = self.characters.labels("came"), self.characters.labels("left")

    def count(self, dialect: str, status: int, stance: str, seconds: float) -> None:
        """One request is over."""
        self._request(dialect, str(status), stance).inc()
        self._duration(dialect).observe(seconds)

    def billed(self, prompt: int, completion: int) -> None:
        """Tokens that the upstream billed for a request."""
        self._prompt.inc(prompt)
        self._completion.inc(completion)

    def changed(self, came: int, left: int, altered: bool) -> None:
        """Characters of reasoning that came and left."""
        self._came.inc(came)
        self._left.inc(left)
        if altered:
            self.altered.inc()

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
