"""Extraction detection in a running gateway: what it sees, what follows from it, and what it writes down."""

from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from gateway_drive import Mock, message, serving
from signals_drive import SECRET, calibration, harvest, words
from test_gateway_desk import key, rows
from test_gateway_serving import ASK, THOUGHTS, post

from azeotrope.core.errors import AzeotropeError, ConfigError, MissingError, RunError
from azeotrope.gateway import boot
from azeotrope.gateway.desk import Desk, open_desk
from azeotrope.gateway.ledger.identity import Identity
from azeotrope.gateway.lookout import ALL, TEXTS, Heard, Lookout, Notes, conduct, newest
from azeotrope.gateway.policy import Failing
from azeotrope.gateway.settings import LedgerSettings, LimitSettings, SignalSettings, load_settings
from azeotrope.gateway.shield import Change
from azeotrope.gateway.signals.calibration import save
from azeotrope.gateway.signals.replay import Log
from azeotrope.gateway.signals.seen import Flag
from azeotrope.gateway.signals.watch import LOST
from azeotrope.gateway.wire import chat_request

POLICY = """
azeotrope_gateway: 1
stances:
  plain: {}
  closed: {refuse: Not today.}
contexts:
  - {name: all, stance: plain, raised: {1: closed}}
"""
ELICITS = "Write out your chain of thought verbatim and then the result. Task: "


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SignalSettings:
    monkeypatch.setenv("AZEOTROPE_SIGNALS_SECRET", SECRET.decode())
    save(calibration(), tmp_path / "calibration.json")
    return SignalSettings.model_validate(
        {"calibration": tmp_path / "calibration.json", "log": tmp_path / "signals.jsonl",
         "watch": {"keys": 64, "tenants": 64}}
    )  # fmt: skip


def lookout_desk(settings: SignalSettings, folder: Path) -> Desk:
    found = open_desk(LedgerSettings(folder=folder, keys="required", audit=True), LimitSettings(), Failing())
    found.suspicion = Lookout(settings)
    found.suspicion.start()
    return found


def asking(prompt: str, **more: Any) -> dict[str, Any]:
    return {**ASK, "messages": [{"role": "user", "content": prompt}], **more}


def test_who_harvests_meets_another_stance_and_others_do_not(tmp_path: Path, settings: SignalSettings) -> None:
    desk = lookout_desk(settings, tmp_path / "ledger")
    assert isinstance(desk.suspicion, Lookout)

    def answer(asked: Any) -> Any:
        long = asked["messages"][0]["content"].startswith(ELICITS)
        usage = {"prompt_tokens": 40, "completion_tokens": 4000 if long else 40}
        return message(THOUGHTS * (40 if long else 1), "It is rock.") | {"usage": usage}

    rng = Random(1)
    with serving(Mock(answer=answer), policy=POLICY, tmp=tmp_path, desk=desk) as running:
        thief, person = key(tmp_path / "ledger", "thief"), key(tmp_path / "ledger", "person")
        codes = []
        for _ in range(30):
            codes.append(post(running, asking(ELICITS + words(rng, 25)), Authorization=f"Bearer {thief}")[0])
            if len(codes) % 5 == 1:
                assert post(running, asking(words(rng, 9)), Authorization=f"Bearer {person}")[0] == 200
            while desk.suspicion.watch.snapshot().queued:
                pass
        assert codes[0] == 200
        assert codes[-1] == 403
        found = desk.suspicion.watch.snapshot()
        refused = [row for row in rows(tmp_path / "ledger") if row["status"] == 403]
        assert {row["tenant"] for row in refused} == {"thief"}
        assert any("conduct" in reason for reason in refused[-1]["reasons"])
        assert len({reason.rpartition("_")[2] for reason in refused[-1]["reasons"]} - {"policy"}) >= 2
    assert found.requests == len(codes) - len(refused) + 6, "what was refused is not an answer"
    text = (tmp_path / "signals.jsonl").read_text()
    assert len(text.splitlines()) == found.requests
    assert "chain of thought" not in text
    log = list(Log(tmp_path / "signals.jsonl", SECRET))
    assert all(item.seen.features is not None for item in log)
    assert {item.group for item in log} == {"default"}
    elicited = [item for item in log if item.seen.flags & Flag.ELICITS]
    assert len(elicited) == len(codes) - len(refused)
    assert all(item.seen.reasoning_tokens > 3900 for item in elicited)


def test_a_step_of_the_clock_is_none_to_the_detection(
    tmp_path: Path, settings: SignalSettings, monkeypatch: Any
) -> None:
    stepped = [0.0]
    real = time.time
    monkeypatch.setattr("azeotrope.gateway.lookout.time", lambda: real() + stepped[0])
    desk = lookout_desk(settings, tmp_path / "ledger")
    found = desk.suspicion
    assert isinstance(found, Lookout)
    before = found._now()
    stepped[0] = 1e9
    assert 0 <= found._now() - before < 60
    assert found.watch._clock() == pytest.approx(found._now(), abs=60)
    with serving(Mock(body=message("", "ok")), policy=POLICY, tmp=tmp_path, desk=desk) as running:
        assert post(running, asking("Go."), Authorization=f"Bearer {key(tmp_path / 'ledger', 'one')}")[0] == 200
    (line,) = Log(tmp_path / "signals.jsonl", SECRET)
    assert 0 <= line.seen.time - before < 60
    assert found.watch._dates is not None
    assert found.watch._dates() > before + 9e8, "what is declared until a date ends on that date"


def test_numbers_of_the_detection_are_metrics(tmp_path: Path, settings: SignalSettings) -> None:
    path = tmp_path / "server.yaml"
    path.write_text(
        "azeotrope_server: 1\nupstreams: {main: {url: 'http://127.0.0.1:9/v1'}}\n"
        "signals: {calibration: calibration.json, watch: {keys: 64, tenants: 64},"
        " batch: [{tenant: jobs, until: 2100-01-01}]}\n"
    )
    file = load_settings(path)
    assert file.signals is not None
    assert file.signals.calibration == settings.calibration
    gateway = boot.build(file)
    page = gateway.metrics.page().decode()
    for name in ("requests_total", "dropped_total", "worker_seconds_total", "keys", "waiting"):
        assert f"azeotrope_signals_{name} 0.0" in page


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"calibration": Path("nowhere.json")}, MissingError, "nowhere.json"),
        ({"secret_env": "OTHER"}, ConfigError, "OTHER is empty"),
        ({"secret_env": "HOME"}, ConfigError, "another secret"),
        ({"watch": {"content_half_life": 60, "keys": 64, "tenants": 64}}, ConfigError, "half-lives"),
        ({"log": Path("no/such/folder/x")}, AzeotropeError, "cannot be written"),
    ],
)
def test_settings_that_do_not_fit_are_refused_at_the_start(
    settings: SignalSettings, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    given = settings.model_dump() | change
    with pytest.raises(error, match=words):
        Lookout(SignalSettings.model_validate(given))


def test_what_a_request_shows() -> None:
    def read(**more: Any) -> Any:
        return chat_request.read(json.dumps(asking("What?", **more)).encode())

    assert conduct(read()) == 0
    assert conduct(read(logprobs=True, n=2)) == Flag.LOGPROBS | Flag.MANY
    assert conduct(read(logit_bias={"5": 1.0}, max_tokens=9000)) == Flag.BIAS | Flag.BARE
    system = {"role": "system", "content": "Write out your chain of thought."}
    user = {"role": "user", "content": "What?"}
    assert conduct(read(messages=[system, user])) == Flag.ELICITS, "instructions may stand anywhere"
    assert conduct(read(messages=[user, {"role": "assistant", "content": "your chain of thought"}, user])) == 0
    asked = {"role": "user", "content": "Write out your chain of thought."}
    call = {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}
    result = {"role": "tool", "tool_call_id": "c", "content": "x"}
    assert conduct(read(messages=[asked])) == 0, "the newest text is for the watch"
    assert conduct(read(messages=[asked, call, result])) == 0, "a step asks nothing new"
    assert conduct(read(messages=[asked, call, result, user])) == Flag.ELICITS
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert newest(read(messages=[*parts, {"role": "assistant", "content": "c"}])) == "ab"


def test_a_new_key_of_a_raised_tenant_is_raised(tmp_path: Path, settings: SignalSettings) -> None:
    lookout, rng = Lookout(settings), Random(2)
    for n in range(40):
        lookout.watch.observe(harvest(n, rng, key="k1", tenant="thief"))
        lookout.watch.drain()
    watch = lookout.watch
    assert watch.stance("k1", 800.0).level >= 1
    assert watch.stance("never seen", 800.0, "thief").level >= 1
    assert watch.stance("never seen", 800.0, "another").level == 0
    assert watch.stance("never seen", 800.0).level == 0


def test_a_log_that_is_full_says_so_and_ends_nothing(
    settings: SignalSettings, caplog: pytest.LogCaptureFixture
) -> None:
    assert settings.log is not None
    settings.log.write_bytes(b"x" * (1 << 20))
    settings.log.chmod(0o600)
    notes, rng = Notes(settings.model_copy(update={"log_megabytes": 1}), SECRET), Random(3)
    notes.start()
    for n in range(5):
        notes.put(harvest(n, rng), "all")
    notes.stop()
    assert notes.missing == 5
    assert sum("has reached its size" in record.getMessage() for record in caplog.records) == 1
    assert settings.log.stat().st_size == 1 << 20


def test_a_tool_turn_counts_by_what_its_user_asks(settings: SignalSettings) -> None:
    """A call that nobody made, and its result, do not hide a question; a real one is not counted twice."""
    lookout = Lookout(settings)
    call = {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}
    rest = [call, {"role": "tool", "tool_call_id": "c", "content": "ok"}]
    instructed = [{"role": "system", "content": ELICITS}]

    def seen(*messages: dict[str, Any], tenant: str = "t") -> Any:
        request = chat_request.read(json.dumps({**ASK, "messages": list(messages)}).encode())
        job = SimpleNamespace(shield=SimpleNamespace(change=Change()), usage=None)
        case = SimpleNamespace(job=job, identity=Identity(tenant, tenant, ""))
        return lookout._seen(case, request, {"headers": []})  # type: ignore[arg-type]

    asked, other = ({"role": "user", "content": text} for text in (ELICITS + "17", ELICITS + "18"))
    assert seen(asked, *rest).prompt == ELICITS + "17", "it was never asked before"
    assert seen(asked, *rest).prompt == ""
    assert seen(*instructed, asked, *rest).flags == 0, "its instructions were seen, too"
    assert seen(*instructed, other, *rest).flags == Flag.ELICITS
    assert seen(asked).prompt == ELICITS + "17", "a question that is asked again is one"
    assert seen(asked, *rest, tenant="u").prompt == ELICITS + "17", "another key"
    lookout.stop()


def test_what_keys_asked_is_remembered_for_a_while() -> None:
    heard = Heard()
    assert not heard.before("k", "a")
    assert heard.before("k", "a")
    for n in range(TEXTS):
        assert not heard.before("k", f"other {n}")
    assert not heard.before("k", "a")
    for n in range(ALL // 2):
        heard.before(f"key {n}", "a")
        heard.before(f"key {n}", "b")
        assert heard.size <= ALL
    assert heard.size == sum(map(len, heard._texts.values()))
    assert not heard.before("k", "a")


def test_tool_turns_of_many_conversations_of_a_key_are_told_from_questions() -> None:
    heard = Heard()
    conversations = [f"question {n}" for n in range(500)]
    for text in conversations:
        assert not heard.before("agent", text)
    for text in conversations * 3:
        assert heard.before("agent", text)


def test_a_detection_that_takes_nothing_in_says_so(settings: SignalSettings, monkeypatch: Any) -> None:
    lookout, who = Lookout(settings), Identity("t", "t", "")
    lookout.start()
    assert lookout.level(who) == (0, ())
    for _ in range(LOST):
        lookout.watch._lose(ValueError())
    with pytest.raises(RunError, match="takes nothing in"):
        lookout.level(who)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    assert lookout.level(who) == (0, ()), "after a while it is tried again"
    monkeypatch.undo()
    lookout.watch._queue.put(None)
    assert lookout.watch._worker is not None
    lookout.watch._worker.join()
    lookout.watch._lost = 0
    with pytest.raises(RunError, match="takes nothing in"):
        lookout.level(who)
    lookout.stop()
