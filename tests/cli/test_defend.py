"""`defend` end to end: formats, counts, what it refuses, and real replies and traces."""

from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest
from cli_drive import Invoke, Result, one_sentence
from hypothesis import given, settings
from hypothesis import strategies as st

from azeotrope.cli import datafile
from azeotrope.core.errors import ConfigError
from azeotrope.core.seeds import derive
from azeotrope.core.types import Trace, split_answer
from azeotrope.defenses.hide_reasoning import HideReasoning
from azeotrope.defenses.random_sentences import RandomSentences
from azeotrope.defenses.traceguard import TraceGuard
from azeotrope.text.rows import RowDefender, UnreadableRowError, apply, find_column

THOUGHT = "The road leads to Oslen. Wait, that is wrong. Hmm, so be it. It is C."
TRACE = f"<think>{THOUGHT}</think> The answer is C. Wait, no."
SHORT = "<think>The road leads to Oslen. It is C.</think> The answer is C. Wait, no."
GUARD = ("--defense", "traceguard:budget=9,unit=count")


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def write(path: Path, *rows: Any) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def told(found: Result) -> dict[str, Any]:
    assert found.code == 0, found.err
    value = json.loads(found.out)
    assert isinstance(value, dict)
    return value


def test_chat(invoke: Invoke, tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "Wait. Think."}, {"role": "user", "content": TRACE}]
    rows = [
        {"id": 1, "messages": [*talk, {"role": "assistant", "content": TRACE, "name": "T"}], "tags": [1.5]},
        {"messages": [*talk, {"role": "assistant", "reasoning_content": THOUGHT, "content": "Wait, C."}]},
        {"messages": [*talk, {"role": "assistant", "reasoning": THOUGHT, "content": None, "tool_calls": [{}]}]},
        {"messages": talk},
        {"messages": [{"role": "assistant", "content": [{"type": "text", "text": TRACE}]}, *talk]},
        {"messages": [{"role": "assistant", "content": [
            {"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": "Wait, a."},
            {"type": "text", "text": "b"}]}]},
    ]  # fmt: skip
    source, out = write(tmp_path / "a.jsonl", *rows), tmp_path / "new" / "b.jsonl"
    found = told(invoke("defend", source, "-o", out, *GUARD, "--json"))
    kept = "The road leads to Oslen. It is C."
    new = lines(out)
    assert new[0]["messages"] == [*talk, {**rows[0]["messages"][2], "content": SHORT}]
    assert (new[0]["id"], new[0]["tags"]) == (1, [1.5])
    assert new[1]["messages"][2] == {"role": "assistant", "reasoning_content": kept, "content": "Wait, C."}
    assert new[2]["messages"][2]["reasoning"] == kept
    assert new[3] == rows[3]
    assert new[4]["messages"][0]["content"][0]["text"] == SHORT
    assert [part.get("thinking") or part["text"] for part in new[5]["messages"][0]["content"]] == (
        [kept, "Wait, a.", "b"]
    )
    words = len(THOUGHT.split()), len(kept.split())
    before = 5 * words[0] + 2 * 6 + 2 + 3
    assert found == {
        "out": str(out), "defenses": ["traceguard(budget=9, unit=count)"], "rows": 6, "changed": 5, "unchanged": 1,
        "without_reasoning": 1, "skipped": 0, "texts": 8, "texts_without_think_tag": 0,
        "tokens_before": before, "tokens_after": before - 5 * (words[0] - words[1]),
    } | {"defenses": found["defenses"]}  # fmt: skip
    assert sorted(os.listdir(tmp_path / "new")) == ["b.jsonl"]


def test_hiding_all_of_it_leaves_what_an_api_would_send(invoke: Invoke, tmp_path: Path) -> None:
    message = {"role": "assistant", "reasoning_content": THOUGHT, "content": "Wait, C."}
    source = write(tmp_path / "a.jsonl", {"messages": [message]}, {"messages": [{**message, "content": TRACE}]})
    out = tmp_path / "b.jsonl"
    told(invoke("defend", source, "-o", out, "--defense", "hide_reasoning:share=1", *GUARD, "--json"))
    first, second = (row["messages"][0] for row in lines(out))
    assert first == {**message, "reasoning_content": None}
    assert second["content"] == " The answer is C. Wait, no.", "a later defense must not reach the answer"
    told(invoke("defend", source, "-o", out, "--force", "--defense", "answer_only", "--json"))
    first, second = (row["messages"][0] for row in lines(out))
    assert first == {**message, "reasoning_content": ""}
    assert second["content"] == "<think></think> The answer is C. Wait, no."


@pytest.mark.parametrize("name", ["completion", "response", "output", "text", "trace", "solution"])
def test_columns(invoke: Invoke, tmp_path: Path, name: str) -> None:
    source = write(tmp_path / "a.jsonl", {"q": "Wait.", name: TRACE}, {name: None, "q": ""})
    out = tmp_path / "b.jsonl"
    field = ("--field", name) if name == "solution" else ()
    found = told(invoke("defend", source, "-o", out, *GUARD, *field, "--json"))
    assert lines(out) == [{"q": "Wait.", name: SHORT}, {name: None, "q": ""}]
    assert (found["changed"], found["unchanged"], found["without_reasoning"]) == (1, 1, 1)


def test_plain_text_for_people(invoke: Invoke, tmp_path: Path) -> None:
    source, out = tmp_path / "a.txt", tmp_path / "b.txt"
    source.write_bytes(f"It is so.\r\n{TRACE}\r\n".encode())
    found = invoke("defend", source, "-o", out, *GUARD)
    assert (found.code, found.err) == (0, "")
    assert out.read_bytes() == f"It is so.\r\n{SHORT}\r\n".encode()
    assert "removed)" in found.out
    source.write_text("Wait. It is so.")
    found = invoke("defend", source, "-o", out, *GUARD, "--force")
    assert "1 of 1 texts have no </think>" in found.err
    assert out.read_text() == "It is so."


def test_parquet(invoke: Invoke, tmp_path: Path) -> None:
    source, out, n = tmp_path / "a.parquet", tmp_path / "b.parquet", 3 * datafile.BATCH + 7
    frame = pl.DataFrame(
        {
            "n": range(n),
            "text": [None if i == 5 else TRACE for i in range(n)],
            "meta": [{"a": [i]} for i in range(n)],
        }
    )
    frame.write_parquet(source, row_group_size=100, metadata={"huggingface": "{}"})
    found = told(invoke("defend", source, "-o", out, *GUARD, "--json"))
    back = pl.read_parquet(out)
    assert back.equals(frame.with_columns(pl.col("text").str.replace(TRACE, SHORT, literal=True)))
    assert back.schema == frame.schema
    assert pl.read_parquet_metadata(out)["huggingface"] == "{}"
    assert (found["rows"], found["changed"], found["without_reasoning"]) == (n, n - 1, 1)


def test_parquet_chat_with_rows_that_cannot_be_read(invoke: Invoke, tmp_path: Path) -> None:
    source, out = tmp_path / "a.parquet", tmp_path / "b.parquet"
    good = [{"role": "assistant", "content": TRACE}]
    pl.DataFrame({"messages": [good, [{"role": None, "content": "x"}], None], "n": [1, 2, 3]}).write_parquet(
        source
    )
    found = invoke("defend", source, "-o", out, *GUARD, "--json")
    assert found.code == 4
    assert pl.read_parquet(out).to_dicts() == [{"messages": [{**good[0], "content": SHORT}], "n": 1}]
    assert "row 2: a message has no role." in found.err
    assert "row 3: 'messages' is not a list." in found.err


def test_rows_that_cannot_be_read_are_named_and_the_rest_is_done(invoke: Invoke, tmp_path: Path) -> None:
    bad = ["{", "[1]", '{"text": 3}', '{"txt": "x"}', '{"text": "x", "n": NaN}', '{"text": "x", "n": 1e999}',
           "[" * 100_000, '{"text": "x", "reasoning": {}}']  # fmt: skip
    source, out = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write(source, *bad[:1], {"text": TRACE}, "", *bad[1:])
    with source.open("ab") as handle:
        handle.write(b'{"text": "\xff"}\n' + b"}\n" * 30 + b'{"text": "last"}')
    found = invoke("defend", source, "-o", out, *GUARD, "--json")
    assert found.code == 4
    counts = json.loads(found.out)
    assert (counts["rows"], counts["changed"], counts["unchanged"], counts["skipped"]) == (41, 1, 1, 39)
    assert [row["text"] for row in lines(out)] == [SHORT, "last"]
    said = found.err.strip().splitlines()
    assert len(said) == 22
    assert said[0].startswith(f"{source}, line 1: it is not JSON")
    assert [line.split(":")[0].rsplit(" ", 1)[1] for line in said[1:9]] == list(map(str, range(4, 12)))
    assert said[-2] == "... and 19 more."
    assert said[-1].startswith("azeotrope: 39 of 41 rows")


def test_rows_before_the_first_with_a_column_are_named_and_the_rest_is_done(
    invoke: Invoke, tmp_path: Path
) -> None:
    source, out = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    chat = {"messages": [{"role": "assistant", "content": TRACE}]}
    write(source, {"version": 1}, {"meta": {}}, chat)
    found = invoke("defend", source, "-o", out, *GUARD, "--json")
    assert found.code == 4
    assert [row["messages"][0]["content"] for row in lines(out)] == [SHORT]
    assert "line 1: it has no column that later rows have." in found.err
    assert "line 2:" in found.err
    write(source, *[{"version": 1}] * 1200, chat)
    found = invoke("defend", source, "-o", tmp_path / "c.jsonl", *GUARD)
    assert found.code == 2
    assert "line 1, has neither" in found.err
    assert not (tmp_path / "c.jsonl").exists()


def test_what_stays_keeps_its_bytes(invoke: Invoke, tmp_path: Path) -> None:
    data = '\ufeff{"text":  "Ö \\u00f6", "n": 1.50}\r\n\n{ "text" : "<think>Wait.</think> x"}'.encode()
    source, out = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    source.write_bytes(data)
    told(invoke("defend", source, "-o", out, "--defense", "traceguard:budget=0", "--defense", "none", "--json"))
    assert out.read_bytes() == data
    source.write_text('{"text": "<think>Wait. It is \\ud83d.</think> \\u00f6"}\n')
    told(invoke("defend", source, "-o", out, *GUARD, "--force", "--json"))
    assert out.read_text() == '{"text": "<think>It is \\ud83d.</think> \\u00f6"}\n'
    source.write_text('{"text": "<think>Wait. It is \\ud83d.</think> ö"}\n', encoding="utf-8")
    told(invoke("defend", source, "-o", out, *GUARD, "--force", "--json"))
    assert out.read_text(encoding="utf-8") == '{"text": "<think>It is \\ud83d.</think> ö"}\n'


def test_trace_files_are_defended_as_when_they_are_sampled(invoke: Invoke, tmp_path: Path) -> None:
    """The random state of a study's first draw; the number of tokens is not known any more."""
    rows = [{"problem_id": f"p{i}", "prompt": "", "text": TRACE, "n_tokens": 9} for i in range(30)]
    source, out = write(tmp_path / "a.jsonl", *rows), tmp_path / "b.jsonl"
    method = RandomSentences(budget=0.5, match="share")
    told(invoke("defend", source, "-o", out, "--defense", "random_sentences:budget=0.5,match=share", "--seed", 7,
                "--json"))  # fmt: skip
    for row, new in zip(rows, lines(out), strict=True):
        trace = Trace(problem_id="", prompt="", text=TRACE)
        want = method.rewrite(trace, Random(derive(derive(7, 0), "rewrite", row["problem_id"])))
        assert new == {**row, "text": want.text, "n_tokens": 0 if want.text != TRACE else 9}
    source.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    again = tmp_path / "c.jsonl"
    told(invoke("defend", source, "-o", again, "--defense", "random_sentences:budget=0.5,match=share",
                "--seed", 7, "--json"))  # fmt: skip
    assert lines(again)[::-1] == lines(out)


WRONG: list[tuple[tuple[str, ...], int, str]] = [
    (("x.jsonl", "-o", "y.jsonl"), 2, "--defense"),
    (("none.jsonl", "-o", "y.jsonl", *GUARD), 3, "none.jsonl"),
    (("x.jsonl", "-o", "y.jsonl", "--defense", "tracegard"), 2, "'traceguard'"),
    (("x.jsonl", "-o", "y.jsonl", "--defense", "traceguard:bugdet=1"), 2, "'budget'"),
    (("x.jsonl", "-o", "y.jsonl", "--defense", "ads:lam=0.2"), 2, "choose from: answer_only"),
    (("x.jsonl", "-o", "y.jsonl", *GUARD, "--field", "texd"), 2, "'text'"),
    (("x.jsonl", "-o", "y.parquet", *GUARD), 2, ".jsonl"),
    (("x.jsonl", "-o", "x.jsonl", *GUARD, "--force"), 2, "is the input"),
    (("x.jsonl", "-o", "./x.jsonl", *GUARD), 2, "is the input"),
    (("x.jsonl", "-o", "there.jsonl", *GUARD), 2, "--force"),
    (("x.jsonl", "-o", "dir.jsonl", *GUARD, "--force"), 2, "folder"),
    (("x.csv", "-o", "y.csv", *GUARD), 2, ".parquet"),
    (("x.txt", "-o", "y.txt", *GUARD, "--field", "text"), 2, "--field"),
    (("empty.jsonl", "-o", "deep/y.jsonl", *GUARD), 2, "no rows"),
    (("empty.txt", "-o", "y.txt", *GUARD), 2, "no rows"),
    (("nothing.jsonl", "-o", "y.jsonl", *GUARD), 2, "columns: a, b"),
    (("latin.txt", "-o", "y.txt", *GUARD), 4, "UTF-8"),
    (("damaged.parquet", "-o", "y.parquet", *GUARD), 4, "damaged"),
    (("cut.parquet", "-o", "y.parquet", *GUARD), 4, "damaged"),
    (("number.parquet", "-o", "y.parquet", *GUARD), 2, "Int64"),
    (("chat.parquet", "-o", "y.parquet", *GUARD), 2, "not a list of messages"),
    (("none.parquet", "-o", "y.parquet", *GUARD), 2, "no rows"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("x.jsonl", "there.jsonl"):
        write(tmp_path / name, {"text": TRACE})
    write(tmp_path / "nothing.jsonl", {"b": 1, "a": TRACE})
    for name in ("x.csv", "x.txt", "empty.jsonl", "empty.txt"):
        (tmp_path / name).write_text("" if "empty" in name else TRACE)
    (tmp_path / "dir.jsonl").mkdir()
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 nothing")
    pl.DataFrame({"text": [str(i) * 99 for i in range(9999)]}).write_parquet(tmp_path / "cut.parquet")
    whole = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:40] + bytes(4000) + whole[4040:])
    pl.DataFrame({"text": [1]}).write_parquet(tmp_path / "number.parquet")
    pl.DataFrame({"messages": ["[]"]}).write_parquet(tmp_path / "chat.parquet")
    pl.DataFrame({"text": []}, schema={"text": pl.String}).write_parquet(tmp_path / "none.parquet")
    return tmp_path


@pytest.mark.parametrize(("arguments", "code", "hint"), WRONG, ids=lambda value: str(value)[:50])
def test_wrong_input_is_one_sentence(
    invoke: Invoke, folder: Path, arguments: tuple[str, ...], code: int, hint: str
) -> None:
    before = {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
    found = invoke("defend", *arguments)
    assert (found.code, found.out) == (code, ""), found.err
    assert one_sentence(found.err), found.err
    assert hint in found.err
    assert {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")} == before


def test_a_file_without_one_good_row_writes_nothing(invoke: Invoke, tmp_path: Path) -> None:
    source, out = write(tmp_path / "a.jsonl", "{", "}"), tmp_path / "b.jsonl"
    found = invoke("defend", source, "-o", out, *GUARD)
    assert (found.code, found.out, out.exists()) == (4, "", False)
    assert found.err.splitlines()[-1].startswith("azeotrope: No row of")


def test_an_interruption_leaves_nothing(invoke: Invoke, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pl.DataFrame({"text": [TRACE]}).write_parquet("x.parquet")
    before = sorted(folder.iterdir())

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TraceGuard, "rewrite", interrupted)
    for suffix in ("jsonl", "parquet", "txt"):
        assert invoke("defend", f"x.{suffix}", "-o", f"deep/y.{suffix}", *GUARD).code == 130
    assert sorted(folder.iterdir()) == before


# the library


def test_columns_are_found_by_name() -> None:
    assert find_column(["text", "messages"], None, "f") == "messages"
    assert find_column(["choices", "output"], None, "f") == "output"
    assert find_column(["choices"], None, "f") == "choices"
    assert find_column(["text", "q"], "q", "f") == "q"
    with pytest.raises(ConfigError, match="columns: none"):
        find_column([], None, "f")


def test_nothing_is_applied_after_the_block_is_gone() -> None:
    trace = Trace(problem_id="p", prompt="", text=TRACE)
    chain = [HideReasoning(share=1), TraceGuard(budget=1)]
    assert apply(trace, chain, 0).text == split_answer(TRACE)[1]
    open_end = Trace(problem_id="p", prompt="", text="Wait. It is \\boxed{3}. Wait.")
    assert apply(open_end, chain, 0).text == "It is \\boxed{3}. "


@pytest.mark.parametrize(
    "message",
    [
        {"content": "x"},
        {"role": "assistant", "content": 3},
        {"role": "assistant", "content": ["x"]},
        {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}]},
        {"role": "assistant", "content": "x", "reasoning": {"effort": "low"}},
        {"role": "assistant", "content": "x", "reasoning_details": [{"text": "a"}]},
    ],
)
def test_what_cannot_be_defended_is_refused_rather_than_passed_on(message: dict[str, Any]) -> None:
    with pytest.raises(UnreadableRowError):
        RowDefender([TraceGuard(budget=1)], "messages").defend({"messages": [message]}, 1)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "reasoning", "message"]), inner)
    ),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["messages", "choices", "text"]), json_values)
def test_any_json_is_defended_or_refused(column: str, value: Any) -> None:
    row = {column: value}
    copy = json.dumps(row)
    try:
        new, tally = RowDefender([TraceGuard(budget=1)], column).defend(row, 1)
    except UnreadableRowError:
        return
    assert json.dumps(row) == copy, "the row is not modified"
    assert new.keys() == row.keys()
    assert tally.words_after <= tally.words_before


# real data


def test_real_traces(invoke: Invoke, data_dir: Path, tmp_path: Path) -> None:
    source, out = data_dir / "traces_r1" / "r1_distill_cots_300.jsonl", tmp_path / "b.jsonl"
    composed = ("--defense", "traceguard:budget=0.1", "--defense", "summary:share=0.3")
    found = told(invoke("defend", source, "-o", out, "--field", "solution", *composed, "--json"))
    assert (found["rows"], found["skipped"], found["texts_without_think_tag"]) == (300, 0, 35)
    assert found["changed"] > 290
    assert 0.62 < found["tokens_after"] / found["tokens_before"] < 0.8
    for old, new in zip(lines(source), lines(out), strict=True):
        assert new["solution"].endswith(split_answer(old["solution"])[1])
        assert {**new, "solution": ""} == {**old, "solution": ""}


def test_real_replies(invoke: Invoke, data_dir: Path, tmp_path: Path) -> None:
    """Recorded replies of several providers: the reasoning goes, the content and all else stay."""
    files = sorted((data_dir / "wire").glob("**/*.json"))
    replies = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    chats = [reply for reply in replies if isinstance(reply, dict) and "choices" in reply]
    assert len(chats) >= 5
    source, out = write(tmp_path / "a.jsonl", *chats), tmp_path / "b.jsonl"
    found = invoke("defend", source, "-o", out, "--defense", "hide_reasoning:share=1", "--json")
    assert found.code == 0, found.err
    hidden = 0
    for old, new in zip(chats, lines(out), strict=True):
        for was, now in zip(old["choices"], new["choices"], strict=True):
            if was["message"].get("reasoning_content"):
                hidden += 1
                assert now["message"]["content"] == was["message"]["content"]
                assert now["message"]["reasoning_content"] is None
    assert hidden >= 1
