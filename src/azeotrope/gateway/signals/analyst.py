"""The worker's side: what prompts say (signals B, C, D) and who belongs together (F). One thread uses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from azeotrope.gateway.signals.bank import Bank
from azeotrope.gateway.signals.calibration import Calibration
from azeotrope.gateway.signals.content import LEAST, score
from azeotrope.gateway.signals.gauge import Cluster, Gauge
from azeotrope.gateway.signals.group import partition, together
from azeotrope.gateway.signals.imprint import Imprint, Printer
from azeotrope.gateway.signals.linkage import Linker
from azeotrope.gateway.signals.prompts import Features, Reader
from azeotrope.gateway.signals.settings import WatchSettings
from azeotrope.maths.evalues import Bets


class Task(NamedTuple):
    """A request on its way to the worker: gauges that it touched, and the beginning of its prompt."""

    key: Gauge
    tenant: Gauge
    time: float
    prompt: str
    length: int
    features: Features | None
    links: dict[str, int]
    linked: bool  # may be linked with others: exempt tenants are not


class Regrouping(NamedTuple):
    """What became of clusters: those that are `gone`, of which some `ended` and others became one of `made`.

    With one that was made stands the lowest stance of those that it was made of, 0 without any.
    """

    now: float
    gone: tuple[Cluster, ...]
    ended: tuple[Cluster, ...]
    made: tuple[tuple[Cluster, int], ...]


class Analyst:
    """Reads prompts into the memories of keys and tenants and keeps the clusters.

    `find` looks a tenant up; `regrouped` is told when clusters are others than before.
    """

    def __init__(
        self,
        settings: WatchSettings,
        calibration: Calibration | None,
        reader: Reader,
        bets: Bets,
        find: Callable[[str], Gauge | None],
        regrouped: Callable[[Regrouping], None] = lambda _: None,
    ) -> None:
        self._reader, self._bets, self._find, self._regrouped = reader, bets, find, regrouped
        self._half_life = settings.evidence_half_life
        self._printer = Printer(calibration.directions() if calibration else None)
        self._profile = calibration.profile() if calibration else None
        self.keys = Bank(settings.keys, settings.content_half_life)
        self.tenants = Bank(settings.tenants, settings.content_half_life)
        self.linker = Linker(settings.link_strength, settings.link_half_life)
        self.clusters: dict[str, Cluster] = {}  # by tenant; replaced whole, so that another thread may read it

    @property
    def nbytes(self) -> int:
        """Bytes of the two banks."""
        return self.keys.nbytes + self.tenants.nbytes

    def read(self, tasks: Sequence[Task]) -> list[tuple[Features, Imprint] | None]:
        """Return what the prompts of requests say, for `take`; None for one without words."""
        fresh = [at for at, task in enumerate(tasks) if task.features is None]
        features = [task.features for task in tasks]
        for at, found in zip(fresh, self._reader.read_many([tasks[at][3:5] for at in fresh]), strict=True):
            features[at] = found
        imprints = iter(self._printer.imprint_many([one for one in features if one is not None]))
        return [None if one is None else (one, next(imprints)) for one in features]

    def take(self, task: Task, said: tuple[Features, Imprint] | None) -> None:
        """Take a request in, with what `read` found in its prompt."""
        cluster = self.clusters.get(task.tenant.name)
        for gauge in (task.key, task.tenant) if cluster is None else (task.key, task.tenant, cluster):
            gauge.taken += 1
        if said is not None:
            features, imprint = said
            self._remember(self.keys, task.key, imprint, task.time)
            self._remember(self.tenants, task.tenant, imprint, task.time)
        if task.linked:
            mark = self._reader.keyed("tenant", task.tenant.name)
            templates = features.template if said is not None else ()
            if self.linker.see(task.tenant.name, mark, task.links, templates, task.time):
                self._regroup(task.time)
            self._look_at(self.clusters.get(task.tenant.name), task.time)

    def _remember(self, bank: Bank, gauge: Gauge, imprint: Imprint, now: float) -> None:
        n = bank.add(gauge.name, imprint, now)
        if n >= LEAST and gauge.due:
            memory = bank.read([gauge.name], now)
            gauge.content = score(memory, self._profile) if memory else None

    def _look_at(self, cluster: Cluster | None, now: float) -> None:
        if cluster is None or cluster.requests < cluster.look_next:
            return
        cluster.look_next = 1.02 * cluster.requests + 4
        whole = self.tenants.read(cluster.members, now)
        cluster.content = score(whole, self._profile) if whole else None
        single = [memory for name in cluster.members if (memory := self.tenants.read([name], now)) is not None]
        shared = partition([memory for memory in single if memory.n1 >= 1])
        cluster.linkage = together(len(cluster.members), shared, cluster.rhythm.fano)
        for name in cluster.members:
            if (member := self._find(name)) is not None:
                member.linkage = cluster.linkage

    def _regroup(self, now: float) -> None:
        before = self.clusters
        found: dict[str, Cluster] = {}
        made: list[tuple[Cluster, int]] = []
        for members in self.linker.clusters:
            parts = list({id(part): part for name in members if (part := before.get(name)) is not None}.values())
            if len(parts) == 1 and parts[0].members == members:
                cluster = parts[0]
            else:
                cluster = Cluster(members, self._bets, now)
                if parts:
                    cluster.inherit(parts, now, self._half_life)
                made.append((cluster, min((part.rungs.level for part in parts), default=0)))
                cluster.add_up([gauge for name in members if (gauge := self._find(name)) is not None], now)
            found.update(dict.fromkeys(members, cluster))
        for name in before.keys() - found.keys():
            if (gauge := self._find(name)) is not None:
                gauge.linkage = float("nan")
        self.clusters = found
        kept = set(map(id, found.values()))
        gone = {id(cluster): cluster for cluster in before.values() if id(cluster) not in kept}
        ended = [one for one in gone.values() if not any(name in found for name in one.members)]
        self._regrouped(Regrouping(now, tuple(gone.values()), tuple(ended), tuple(made)))
