"""Replay of logs: every line that can be understood counts, every other is named by its number."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import msgspec
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from signals_drive import SECRET, calibration, harvest, talk
from typer.testing import CliRunner

from azeotrope.cli import signals
from azeotrope.core.errors import MissingError, RunError
from azeotrope.gateway.signals import replay as replaying
from azeotrope.gateway.signals.calibration import save
from azeotrope.gateway.signals.prompts import Reader
from azeotrope.gateway.signals.replay import Log, part_of, replay
from azeotrope.gateway.signals.seen import Flag, Seen
from azeotrope.gateway.signals.settings import WatchSettings

SMALL = WatchSettings(keys=64, tenants=64)


def row(seen: Seen, **changes: object) -> dict[str, object]:
    return {
        "time": seen.time, "key": seen.key, "tenant": seen.tenant, "prompt": seen.prompt,
        "answer_tokens": seen.answer_tokens, "reasoning_tokens": seen.reasoning_tokens, **changes,
    }  # fmt: skip


def traffic(n: int = 120) -> list[dict[str, object]]:
    rng = Random(0)
    rows = [row(harvest(i, rng)) for i in range(n)] + [row(talk(i, rng)) for i in range(n // 3)]
    return sorted(rows, key=lambda item: float(str(item["time"])))


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in rows))
    return path


def test_a_log_gives_alarms_with_reasons(tmp_path: Path) -> None:
    report = replay(write(tmp_path / "log.jsonl", traffic()), calibration(), SMALL, SECRET)
    assert (report.lines, report.malformed, report.disordered) == (160, 0, 0)
    assert {alarm.name for alarm in report.alarms} == {"thief"}
    assert all(alarm.reasons for alarm in report.alarms if alarm.after > alarm.before)
    assert "thief" in report.discoveries or report.snapshot.stances


def test_features_stand_in_for_prompts(tmp_path: Path) -> None:
    reader, rows = Reader(SECRET), []
    for item in traffic():
        features = reader.read(str(item["prompt"]))
        flags = ["elicits"] if "chain of thought" in str(item["prompt"]) else []
        rows.append({**item, "prompt": "", "features": msgspec.to_builtins(features), "flags": flags})
    with_text = replay(write(tmp_path / "text.jsonl", traffic()), calibration(), SMALL, SECRET)
    without = replay(write(tmp_path / "hashes.jsonl", rows), calibration(), SMALL, SECRET)
    assert without.alarms == with_text.alarms
    assert with_text.alarms
    assert "chain of thought" not in (tmp_path / "hashes.jsonl").read_text()


BAD = [
    "not json", "[1]", "null", "{", '{"time": 1}', '{"key": "k"}', '{"time": "yesterday", "key": "k"}',
    '{"time": 1e999, "key": "k"}', '{"time": 1, "key": ""}', '{"time": 1, "key": 5}', '{"time": true, "key": "k"}',
    '{"time": 1, "key": "k", "answer_tokens": -1}', '{"time": 1, "key": "k", "answer_tokens": 1e30}',
    '{"time": 1, "key": "k", "flags": ["CANARY"]}', '{"time": 1, "key": "k", "links": {"CANARY": []}}',
    '{"time": 1, "key": "k", "features": {"CANARY": 1}}', '{"time": 1, "key": "k", "prompt": ["CANARY"]}',
    '{"time": 1, "key": "' + "k" * 300 + '"}', '{"time": "CANARY", "key": "k"}',
    '{"time": 1, "key": "k", "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
]  # fmt: skip


def test_bad_lines_are_named_and_the_rest_is_done(tmp_path: Path) -> None:
    path, told = tmp_path / "log.jsonl", []
    good = json.dumps(row(talk(0, Random(0))))
    path.write_bytes(
        b"\n".join([*(f"{line}\n{good}".encode() for line in BAD), b"\xff\xfe", b"", b"  ", good.encode()])
    )
    report = replay(path, calibration(), SMALL, SECRET, lambda number, why: told.append((number, why)))
    assert [number for number, _ in told] == [*range(1, 2 * len(BAD), 2), 2 * len(BAD) + 1]
    assert report.malformed == len(BAD) + 1
    assert report.lines - report.malformed == report.snapshot.requests == len(BAD) + 1
    assert "CANARY" not in str(told)
    assert all(why and not why.endswith(".") for _, why in told)


@given(st.binary(max_size=200))
@settings(max_examples=60)
def test_any_bytes_are_survived(data: bytes) -> None:
    log, why = Log(Path("/dev/null"), SECRET), "fine"
    try:
        log._parse(data)
    except (ValueError, RecursionError) as error:
        why = replaying._sentence(error)
    assert why


def test_a_line_that_is_too_long_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "LONGEST", 300)
    good = json.dumps({"time": 1, "key": "k"})
    path, told = tmp_path / "log.jsonl", []
    path.write_text(f"{good}\n" + "x" * 1000 + f"\n{good}\n" + "y" * 301)
    log = Log(path, SECRET, lambda number, why: told.append(number))
    assert len(list(log)) == 2
    assert told == [2, 4]


def test_times_flags_and_links_are_read(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {
            "time": "2026-11-22T10:00:00Z",
            "key": "a",
            "flags": ["logprobs", "bias", "bias"],
            "links": {"ip": "1.2.3.4"},
        },
        {"time": "2026-11-22T10:00:00", "key": "a", "flags": 12, "links": {"ip": 7, "shoe": "size"}},
        {"time": 0, "key": "a", "tenant": "t", "group": "g", "unknown": {"is": "ignored"}},
    ]
    log = Log(write(tmp_path / "log.jsonl", rows), SECRET)
    first, second, third = list(log)
    assert first.seen.time == second.seen.time == 1795341600.0
    assert first.seen.flags == Flag.LOGPROBS | Flag.BIAS == second.seen.flags == 12
    assert first.seen.links == {"ip": Reader(SECRET).keyed("ip", "1.2.3.4")}
    assert second.seen.links == {"ip": 7}
    assert (third.seen.tenant, third.group, first.seen.tenant, first.group) == ("t", "g", "a", "all")
    assert log.disordered == 1


def test_parts_share_no_tenant_and_lose_nobody(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"time": i, "key": f"k{i % 50}"} for i in range(200)]
    log = Log(write(tmp_path / "log.jsonl", rows), SECRET)
    parts = [[item.seen.tenant for item in part_of(log, i)] for i in range(3)]
    assert sum(map(len, parts)) == 200
    assert not set(parts[0]) & set(parts[1]) | set(parts[1]) & set(parts[2]) | set(parts[0]) & set(parts[2])
    assert all(parts)


def test_missing_logs(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no log"):
        replay(tmp_path / "none", calibration(), SMALL, SECRET)
    with pytest.raises(RunError, match="cannot be read"):
        replay(tmp_path, calibration(), SMALL, SECRET)


def run(*arguments: str) -> tuple[int, str, str]:
    """Run the command group as the program does: errors become a code and a line."""
    from azeotrope.cli.entry import sentence

    found = CliRunner().invoke(signals.app, list(arguments), env={"AZEOTROPE_SIGNALS_SECRET": SECRET.decode()})
    if isinstance(found.exception, Exception):
        message, code = sentence(found.exception)
        return code, found.stdout, found.stderr + message
    return found.exit_code, found.stdout, found.stderr


def test_the_command_lists_alarms_and_fails_softly(tmp_path: Path) -> None:
    calibrated = tmp_path / "c.json"
    save(calibration(), calibrated)
    log = write(tmp_path / "log.jsonl", traffic())
    code, out, _ = run("replay", str(log), "--calibration", str(calibrated))
    assert code == 0
    assert "thief" in out
    assert "conduct:" in out
    with log.open("a") as file:
        file.write("broken\n")
    code, out, err = run("replay", str(log), "--calibration", str(calibrated), "--json")
    assert code == 4
    assert "line 161: it is not JSON" in err
    assert "1 of 161 lines" in err
    assert json.loads(out)["malformed"] == 1
    assert {reason["code"] for alarm in json.loads(out)["alarms"] for reason in alarm["reasons"]} >= {"conduct"}


def test_the_command_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    log = write(tmp_path / "log.jsonl", traffic(3))
    assert run("replay", str(log), "--calibration", str(tmp_path / "c.json"))[0] == 3
    assert run("calibrate", "--out", str(tmp_path / "c.json"))[0] == 2
    assert run("calibrate", str(log), "--simulated", "--out", str(tmp_path / "c.json"))[0] == 2
    code, _, err = run("calibrate", str(log), "--out", str(tmp_path / "c.json"))
    assert (code, "prompts to learn from" in err) == (2, True)


def test_the_group_has_its_three_commands() -> None:
    group = typer.main.get_command(signals.app)
    assert set(group.commands) == {"replay", "calibrate", "simulate"}  # type: ignore[attr-defined]
