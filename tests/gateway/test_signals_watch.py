"""The watch as a whole: what it raises, what it leaves alone, and that nothing a client sends harms it."""

from __future__ import annotations

import sys
import threading
import tracemalloc
from functools import partial
from random import Random
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signals_drive import SECRET, calibration, harvest, talk, watch

from azeotrope.core.errors import ConfigError
from azeotrope.gateway.signals.analyst import Regrouping
from azeotrope.gateway.signals.exempt import BatchProfile
from azeotrope.gateway.signals.gauge import Cluster, Gauge
from azeotrope.gateway.signals.ladder import Rules, advance
from azeotrope.gateway.signals.reasons import Alarm
from azeotrope.gateway.signals.roster import Roster
from azeotrope.gateway.signals.seen import Flag, Seen
from azeotrope.gateway.signals.settings import WatchSettings
from azeotrope.gateway.signals.watch import UNCALIBRATED, Watch

DAY = 86400.0


def feed(found: Watch, n: int, *, seed: int = 0, make: object = harvest, **how: object) -> float:
    rng, time = Random(seed), 0.0
    for i in range(n):
        seen = make(i, rng, **how)  # type: ignore[operator]
        found.observe(seen)
        found.drain()
        time = seen.time
    return time


def test_a_sweep_is_raised_with_reasons_of_several_families() -> None:
    found = watch()
    last = feed(found, 300)
    stance = found.stance("thief", last)
    assert stance.level >= 3
    codes = {reason.code for reason in stance.reasons}
    assert {"conduct", "volume", "template"} <= codes
    assert all(reason.text and reason.evalue >= 2 for reason in stance.reasons)
    assert stance.since <= last
    assert found.stance("stranger", last).level == 0


def test_people_are_left_alone() -> None:
    found = watch()
    for i in range(12):
        feed(found, 40, seed=i, make=talk, key=f"p{i}")
    assert not found.snapshot(DAY).stances
    assert not found.snapshot(DAY).recent


def test_volume_alone_conduct_alone_move_nothing() -> None:
    found, rng = watch(), Random(1)
    for i in range(200):
        found.observe(Seen(key="big", tenant="big", time=10.0 * i, answer_tokens=8000))
        found.observe(
            Seen(key="odd", tenant="odd", time=10.0 * i, flags=int(Flag.CANARY), prompt=f"{rng.random()}")
        )
        found.drain()
    big, odd = found.subject("key", "big"), found.subject("key", "odd")
    assert big is not None
    assert odd is not None
    assert big.evalues[0] > 50
    assert big.score == 0
    assert odd.evalues[4] > 1e6
    assert odd.run >= found.settings.run_length
    assert odd.peak >= 1 / found.settings.false_alarm
    assert odd.past_bound
    assert found.snapshot(2000.0).conduct_alarms == 1
    assert found.stance("big", 2000.0).level == 0


def test_a_stance_comes_down_without_traffic() -> None:
    found = watch()
    last = feed(found, 300)
    levels = [found.stance("thief", last + hours * 3600).level for hours in range(0, 80, 4)]
    assert levels[0] >= 3
    assert levels[-1] == 0
    assert levels == sorted(levels, reverse=True)
    assert found.snapshot(last + 80 * 3600).stances == {}


def test_a_tenant_is_followed_over_its_keys() -> None:
    """Each of forty keys is small; their tenant is not."""
    found, rng = watch(), Random(2)
    for i in range(320):
        found.observe(harvest(i, rng, key=f"k{i % 40}", tenant="t"))
        found.drain()
    stance = found.stance("k3", 6400.0)
    assert stance.level >= 2
    assert "tenant" in {reason.level for reason in stance.reasons}


def test_a_cluster_is_followed_over_its_tenants() -> None:
    found, rng = watch(keys=512, tenants=512), Random(3)
    for i in range(200):
        found.observe(Seen(key=f"s{i}", tenant=f"s{i}", time=float(i), links={"asn": i, "agent": i, "tls": i}))
    for i in range(400):
        links = {"agent": 10**6, "tls": 10**6, "payment": 10**6 + i % 2}
        found.observe(harvest(i, rng, key=f"h{i % 40}", gap=30.0, links=links))
        found.drain()
    cluster = found.subject("cluster", "h3")
    assert cluster is not None
    stance = found.stance("h3", 12_000.0)
    assert stance.level >= 2
    assert "cluster" in {reason.level for reason in stance.reasons}
    assert found.snapshot(12_000.0).clusters == 1
    assert found.stance("s3", 12_000.0).level == 0


def test_joining_a_large_harmless_group_does_not_shed_a_stance() -> None:
    rules = Rules((4.0, 8.0, 16.0, 32.0), 0.5, 1800.0)
    small, large = (Cluster((name,), UNCALIBRATED, 0.0) for name in ("small", "large"))
    small.rungs, small.requests = advance(small.rungs, 20.0, 10.0, rules), 50
    small.judged((20.0,) * 6, 20.0)
    large.requests = 10_000
    both = Cluster(("large", "small"), UNCALIBRATED, 20.0)
    small.take(0.0, 1.0, 0.0, UNCALIBRATED, DAY)
    both.inherit([large, small], 3600.0, 3600.0)
    assert (both.rungs.level, both.requests) == (3, 10_000)
    assert both.score == pytest.approx(10.0), "an hour has faded it"
    assert both.faded(3600.0, 3600.0) == pytest.approx(10.0)
    assert both.rhythm is large.rhythm


def test_clusters_that_become_another_one_are_counted_and_told_once() -> None:
    found, rng = watch(keys=512, tenants=512), Random(3)
    for i in range(200):
        found.observe(Seen(key=f"s{i}", tenant=f"s{i}", time=float(i), links={"asn": i, "agent": i, "tls": i}))

    def go(first: int, last: int, names: list[str]) -> Cluster:
        for i in range(first, last):
            links = {"agent": 10**6, "tls": 10**6, "payment": 10**6 + i % 2}
            found.observe(harvest(i, rng, key=names[i % len(names)], gap=30.0, links=links))
            found.drain()
        cluster = found.subject("cluster", names[-1])
        assert isinstance(cluster, Cluster)
        return cluster

    def counted(now: float) -> tuple[int, int]:
        now_ = found.snapshot(now)
        return tuple(sum(n for (level, _), n in some.items() if level == "cluster")  # type: ignore[return-value]
                     for some in (now_.stances, now_.alarms))  # fmt: skip

    names = [f"h{i}" for i in range(10)]
    before = go(0, 400, names[5:])
    raised, alarms = counted(12_000.0)
    assert (before.name, raised) == ("h5", 1)
    assert before.rungs.level >= 2
    after = go(400, 800, names)
    assert after.name == "h0", "it is another one, under another name"
    assert after.rungs.level >= before.rungs.level
    assert counted(24_000.0)[0] == 1
    others = [
        alarm for alarm in found.snapshot(24_000.0).recent if alarm.name == "h0" and alarm.level == "cluster"
    ]
    assert all(one.before >= 2 for one in others), "more members are no alarm"
    assert counted(24_000.0)[1] == alarms + sum(one.after > one.before for one in others)
    with found._lock:
        found._climb(before, 24_000.0)  # by a thread that held it from before
    assert counted(24_000.0)[0] == 1


def test_a_group_that_comes_to_a_stance_by_joining_is_told() -> None:
    told: list[Alarm] = []
    found = Watch(WatchSettings(keys=64, tenants=64), calibration(), secret=SECRET, on_alarm=told.append)
    small, large, both = (Cluster(names, UNCALIBRATED, 0.0) for names in (("s",), ("l", "m"), ("l", "m", "s")))
    small.rungs = both.rungs = advance(small.rungs, 1e9, 0.0, Rules((4.0, 8.0, 16.0, 32.0), 0.5, 1800.0))
    found._analyst.clusters = dict.fromkeys("lms", both)
    found._regrouped(Regrouping(10.0, (small, large), (), ((both, 0),)))
    assert [(alarm.name, alarm.before, alarm.after) for alarm in told] == [("l", 0, 4)]
    assert found.snapshot(10.0).stances == {("cluster", 4): 1}
    found._analyst.clusters = {}
    found._regrouped(Regrouping(20.0, (both,), (both,), ()))
    assert [(alarm.before, alarm.after) for alarm in told] == [(0, 4), (4, 0)]
    assert found.snapshot(20.0).stances == {}


def test_an_exempt_member_neither_lowers_nor_feeds_its_cluster() -> None:
    found, rng = watch(keys=512, tenants=512), Random(3)
    for i in range(200):
        found.observe(Seen(key=f"s{i}", tenant=f"s{i}", time=float(i), links={"asn": i, "agent": i, "tls": i}))
    for i in range(200):
        links = {"agent": 10**6, "tls": 10**6, "payment": 10**6}
        found.observe(harvest(i, rng, key=f"h{i % 10}", gap=30.0, links=links))
        found.drain()
    before = found.stance("h1", 6000.0).level
    cluster = found.subject("cluster", "h0")
    assert cluster is not None
    requests = cluster.requests
    found.declare(BatchProfile(tenant="h0", until=DAY))
    for i in range(200, 230):
        found.observe(harvest(i, rng, key="h0", gap=30.0))
        found.drain()
    assert before >= 2
    assert cluster.requests == requests
    assert cluster.rungs.level == before
    assert found.stance("h0", 6900.0).level == 0
    assert found.stance("h1", 6900.0).level == before


def test_declared_batch_work_never_moves_and_ends_with_its_declaration() -> None:
    found = watch()
    found.declare(BatchProfile(tenant="thief", until=5000.0))
    rng, levels = Random(4), {}
    for i in range(500):
        found.observe(harvest(i, rng))
        found.drain()
        levels[20.0 * i] = found.stance("thief", 20.0 * i).level
    assert {level for time, level in levels.items() if time < 5000} == {0}
    assert levels[20.0 * 499] >= 3
    found.declare(BatchProfile(tenant="thief", until=10**6))
    assert found.stance("thief", 10_000.0).reasons[0].code == "exempt"
    found.withdraw("thief")
    assert found.stance("thief", 10_000.0).level >= 3


def test_a_declaration_does_not_cover_more_than_it_says() -> None:
    found = watch()
    found.declare(BatchProfile(tenant="thief", until=DAY, tokens_per_day=50_000))
    last = feed(found, 300)
    assert found.stance("thief", last).level >= 3


def test_without_a_calibration_nothing_is_acted_upon() -> None:
    found = Watch(WatchSettings(keys=8, tenants=8))
    last = feed(found, 60)
    assert found.stance("thief", last).level == 0
    assert not found.snapshot(last).calibrated
    assert found.bets is UNCALIBRATED


def test_a_calibration_of_another_secret_is_refused() -> None:
    with pytest.raises(ConfigError, match="another secret"):
        Watch(calibration=calibration(), secret=b"something else")
    with pytest.raises(ConfigError, match="half-lives"):
        Watch(WatchSettings(content_half_life=60.0), calibration(), secret=SECRET)


def test_memory_is_bounded_whatever_comes() -> None:
    found = watch(keys=40, tenants=20)
    size = found.snapshot(0.0).bank_bytes
    for i in range(600):
        found.observe(Seen(key=f"k{i}", tenant=f"t{i}", time=float(i), prompt=f"hello number {i} my friend"))
        found.drain()
    snapshot = found.snapshot(600.0)
    assert (snapshot.keys, snapshot.tenants) == (40, 20)
    assert snapshot.bank_bytes == size


def test_a_gauge_takes_about_a_kilobyte() -> None:
    tracemalloc.start()
    gauges = [Gauge("key", f"k{i}", f"t{i}", UNCALIBRATED, 0.0) for i in range(500)]
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / len(gauges) < 1200, sys.version


def test_what_was_harvested_survives_being_forgotten() -> None:
    found = watch(keys=16, tenants=16)
    for i in range(100):
        found.observe(Seen(key="thief", tenant="thief", time=20.0 * i, answer_tokens=900))
        found.drain()
    thief = found.subject("tenant", "thief")
    assert thief is not None
    volume = thief.volumes[2]
    for i in range(200):
        found.observe(Seen(key=f"k{i}", tenant=f"t{i}", time=2000.0, answer_tokens=10**7))
    found.drain()
    assert found.subject("tenant", "thief") is None
    found.observe(Seen(key="thief", tenant="thief", time=2000.0))
    back = found.subject("tenant", "thief")
    assert back is not None
    assert back.volumes[2] >= 0.9 * volume


def test_coming_and_going_costs_nobody_else_their_record() -> None:
    """What comes back takes nothing from those who share its cells, and is not counted twice."""
    names = [f"k{i}" for i in range(200)]
    shared = {name: crc32(name.encode()) % 64 for name in names}
    roster, rng = Roster(8, shared.__getitem__, lambda _: None), Random(5)
    harvested = dict.fromkeys(names, 0.0)
    for i in range(4000):
        name = rng.choice(names)
        now = float(i)
        gauge = roster.use(name, partial(Gauge, "key", name, name, UNCALIBRATED, now), now)
        gauge.take(now, 100.0, 0.0, UNCALIBRATED, DAY)
        harvested[name] += 100.0
    for name in names:
        gauge = roster.use(name, partial(Gauge, "key", name, name, UNCALIBRATED, 4000.0), 4000.0)
        together = sum(harvested[other] for other in names if shared[other] == shared[name])
        assert 0.96 * harvested[name] <= gauge.volumes[2] <= together, name


def test_a_raised_key_is_not_driven_out_by_quiet_ones() -> None:
    found = watch(keys=16, tenants=16)
    last = feed(found, 200)
    assert found.stance("thief", last).level >= 1
    for i in range(14):
        found.observe(Seen(key=f"a{i}", tenant=f"a{i}", time=last, answer_tokens=5))
    for i in range(300):
        found.observe(Seen(key=f"b{i}", tenant=f"b{i}", time=last, answer_tokens=5))
        found.drain()
    assert found.stance("thief", last).level >= 1


def test_a_full_queue_drops_and_counts_and_conduct_still_counts() -> None:
    found, rng = watch(queue=5), Random(5)
    for i in range(100):
        found.observe(harvest(i, rng))
    snapshot = found.snapshot(2000.0)
    assert (snapshot.dropped, snapshot.queued) == (95, 5)
    assert found.stance("thief", 2000.0).level >= 1, "volume and conduct need no worker"
    assert found.drain() == 5


def test_the_worker_does_what_draining_does_and_counts_its_time() -> None:
    inline, threaded = watch(), watch()
    rng = Random(6)
    traffic = [harvest(i, rng) for i in range(150)]
    threaded.start()
    threaded.start()
    for seen in traffic:
        inline.observe(seen)
        inline.drain()
        threaded.observe(seen)
    threaded.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "azeotrope-signals"]
    mine, theirs = inline.subject("key", "thief"), threaded.subject("key", "thief")
    assert mine is not None
    assert theirs is not None
    assert mine.content == theirs.content
    assert threaded.snapshot(0.0).worker_seconds > 0
    assert threaded.snapshot(0.0).queued == 0
    threaded.stop()


def test_one_request_that_fails_does_not_end_the_watch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = watch()

    def broken(_task: object) -> None:
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(found._analyst, "take", broken)
        found.observe(Seen(key="k", tenant="t", time=0.0, prompt="a private question"))
        found.drain()
    assert found.snapshot(0.0).failed == 1
    assert "private" not in caplog.text
    feed(found, 3)
    assert found.snapshot(0.0).failed == 1


@given(
    st.text(st.characters(exclude_categories=()), max_size=60),
    st.text(st.characters(exclude_categories=()), max_size=400),
    st.lists(st.integers(-(2**70), 2**70), min_size=4, max_size=4),
    st.dictionaries(st.sampled_from(["ip", "asn", "what"]), st.integers(-(2**70), 2**70), max_size=3),
)
@settings(max_examples=60)
def test_nothing_a_client_sends_is_fatal(
    name: str, prompt: str, numbers: list[int], links: dict[str, int]
) -> None:
    found = WATCH
    found.observe(
        Seen(
            key=name,
            tenant=name,
            time=0.0,
            prompt=prompt,
            answer_tokens=numbers[0],
            reasoning_tokens=numbers[1],
            logprob_floats=numbers[2],
            flags=abs(numbers[3]),
            links=links,
        )
    )
    found.drain()
    found.stance(name, 1.0)
    assert found.snapshot(1.0).failed == 0


WATCH = watch()


def test_repeating_a_prompt_is_noticed() -> None:
    found = watch()
    for i in range(30):
        found.observe(Seen(key="same", tenant="same", time=float(i), prompt="what is the answer to this"))
        found.observe(Seen(key="new", tenant="new", time=float(i), prompt=f"what is the answer to {i}"))
    found.drain()
    same, new = found.subject("key", "same"), found.subject("key", "new")
    assert same is not None
    assert new is not None
    assert same.conduct > 1.5 * new.conduct


def test_alarms_are_told_once_per_change_and_never_hold_text() -> None:
    told: list[Alarm] = []
    found = Watch(
        WatchSettings(keys=64, tenants=64), calibration(), secret=SECRET, clock=lambda: 0.0, on_alarm=told.append
    )
    last = feed(found, 300)
    for subject in ("key", "tenant"):
        mine = [alarm for alarm in told if alarm.level == subject]
        assert [alarm.before for alarm in mine] == [0, *[alarm.after for alarm in mine[:-1]]]
        assert all(alarm.before != alarm.after for alarm in mine)
    assert "Task" not in repr(told)
    assert found.snapshot(last).recent == tuple(told)
    assert sum(found.snapshot(last).alarms.values()) == sum(alarm.after > alarm.before for alarm in told)


def test_tenants_are_discovered_at_a_false_discovery_rate() -> None:
    found = watch()
    for i in range(10):
        feed(found, 20, seed=i, make=talk, key=f"p{i}")
    last = feed(found, 300)
    assert found.discoveries(last, alpha=0.5) == ("thief",)


def test_the_same_traffic_gives_the_same_alarms() -> None:
    runs = []
    for _ in range(2):
        told: list[Alarm] = []
        found = Watch(WatchSettings(keys=64, tenants=64), calibration(), secret=SECRET, on_alarm=told.append)
        feed(found, 120)
        runs.append(told)
    assert runs[0] == runs[1]
    assert runs[0]
