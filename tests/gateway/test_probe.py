"""`azeotrope probe`: where a model puts its reasoning, and whether `tags` says so."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from gateway_drive import Mock, free_port, message, upstream
from serve_drive import COMMAND

from azeotrope.core.errors import RunError
from azeotrope.gateway.probe import FITS, Look, place
from azeotrope.gateway.settings import Tags
from azeotrope.gateway.wire.errors import WireError

BLOCKS: Any = {"id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"}
CUT = message("", "First I add 17 and")
CUT["choices"][0]["finish_reason"] = "length"


@pytest.mark.parametrize(
    ("dialect", "body", "seen"),
    [
        ("chat", message("17 + 25 is 42.", "42"), "apart"),
        ("chat", message("", "<think>17 + 25 is 42.</think>42"), "tags"),
        ("chat", message("", "17 + 25 is 42.</think>42"), "opened"),
        ("chat", message("", "42"), "none"),
        ("chat", CUT, "unknown"),
        ("messages", {**BLOCKS, "content": [{"type": "text", "text": "It is 42.</think>42"}]}, "opened"),
        (
            "messages",
            {**BLOCKS, "content": [{"type": "thinking", "thinking": "It is 42.", "signature": ""}]},
            "apart",
        ),
    ],
)
def test_the_place_is_read_off_one_reply(dialect: str, body: Any, seen: str) -> None:
    assert place(dialect, json.dumps(body).encode()) == seen


@pytest.mark.parametrize(
    ("tags", "seen", "fits"),
    [
        ("auto", "opened", False),  # reasoning would leave as an answer
        ("none", "tags", False),
        ("opened", "none", False),  # the answer would be hidden
        ("opened", "apart", False),
        ("opened", "opened", True),
        ("auto", "tags", True),
        ("none", "apart", True),
    ],
)
def test_a_setting_fits_if_it_neither_leaks_nor_hides(tags: Tags, seen: Any, fits: bool) -> None:
    found = Look("main", "m", tags, seen)
    assert found.fits is fits
    assert (f"write 'tags: {FITS[found.place][0]}'" in found.sentence) is not fits
    assert not Look("main", "m", tags, seen, failure="no").fits
    assert not Look("main", "m", tags, "unknown").fits
    assert not Look("main", "m", tags, "unknown").told


@pytest.mark.parametrize(
    "body", [{"error": {"message": "SECRET"}}, {}, {"choices": []}, {"choices": [{"finish_reason": "error"}]}]
)
def test_an_answer_that_is_an_error_says_nothing(body: Any) -> None:
    with pytest.raises((RunError, WireError)) as caught:
        place("chat", json.dumps(body).encode())
    assert "SECRET" not in str(caught.value)


def run(*words: str) -> tuple[int, str, str]:
    done = subprocess.run([*COMMAND[:-1], "probe", *words], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_the_command_says_what_to_write_and_then_is_content(tmp_path: Path) -> None:
    mock = Mock(body=message("", "17 + 25 is 42.</think>42"))
    file = tmp_path / "server.yaml"
    with upstream(mock, free_port()) as address:
        code, out, err = run("--upstream", address, "--model", "r1")
        assert (code, "write 'tags: opened' in place of 'auto'" in out, err.count("\n")) == (2, True, 1)
        assert (mock.asked[0]["model"], mock.asked[0]["max_tokens"]) == ("r1", 1024)
        file.write_text(
            f"upstreams: {{u: {{url: '{address}', tags: opened, limit_field: max_completion_tokens}}}}\n"
            "models: {mine: {upstream: u, served: r2}}\n",
            encoding="utf-8",
        )
        code, out, _ = run("--config", str(file), "--max-tokens", "9", "--json")
        assert (code, json.loads(out)[0]["place"], json.loads(out)[0]["fits"]) == (0, "opened", True)
        assert (mock.asked[1]["model"], mock.asked[1]["max_completion_tokens"]) == ("r2", 9)
        assert run("--upstream", address)[0] == 3  # no model is named
        mock.body = CUT
        code, out, _ = run("--config", str(file))
        assert (code, "larger --max-tokens" in out) == (4, True)
        mock.status, mock.body = 401, "x" * 100_000
        code, out, _ = run("--config", str(file))
        assert (code, "status 401" in out) == (4, True)
    assert run()[0] == 2
    file.write_text(
        "upstreams: {u: {url: 'http://127.0.0.1:9', key_env: NOT_SET_ANYWHERE}, v: {url: 'http://127.0.0.1:9'}}\n"
        "models: {mine: {upstream: u}, yours: {upstream: v}}\n",
        encoding="utf-8",
    )
    code, out, _ = run("--config", str(file))
    assert (code, "NOT_SET_ANYWHERE" in out, "cannot be reached" in out) == (4, True, True)
    file.write_text("teacher: {}\n", encoding="utf-8")
    assert run("--config", str(file))[0] == 2
