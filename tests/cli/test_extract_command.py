"""`extract` over HTTP: the command line, a real server and a real model behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cli_drive import Invoke, one_sentence

pytest.importorskip("torch")

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from azeotrope.models.lm import LM, load, load_tokenizer
from logit_server import LogitServer
from serving import Served
from tiny import tiny

HIDDEN, VOCAB = 4, 1024
TEXTS = [f"Ada gives {i} pears to Bo." for i in range(9)]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def small() -> LM:
    """A random model with the embedded teacher's tokenizer, 128 tokens of which have no text of their own."""
    found = tiny("llama", vocab=VOCAB, hidden=HIDDEN, dtype=torch.float64)
    return LM(found.model, load_tokenizer("embedded/teacher"), found.ref, found.revision)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"prompt": text, "note": 1}) for text in [*TEXTS, TEXTS[0]]]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


@pytest.fixture
def server(small: LM) -> Iterator[tuple[LogitServer, Served]]:
    answers = LogitServer(small, most=150)
    with Served(answers) as served:
        yield answers, served


def command(served: Served, folder: Path, *more: Any) -> list[Any]:
    ref = f"{served.url}#m?cache={folder}/c.sqlite&retries=0&key_env="
    return ["extract", ref, "--tokenizer", "embedded/teacher", "--out", folder / "out/logits.safetensors", *more]


def truth(answers: LogitServer, texts: list[str], reference: int) -> Any:
    logits_NV = torch.stack([answers.logits(text) for text in texts])
    return logits_NV - logits_NV[:, [reference]]


def test_from_prompts_to_a_file(
    invoke: Invoke, server: tuple[LogitServer, Served], prompts: Path, tmp_path: Path
) -> None:
    answers, served = server
    line = command(served, tmp_path, "--prompts", prompts, "--k", 150)
    found = invoke(*line, "--json")
    assert found.code == 0, found.err
    told = json.loads(found.out)
    assert (told["prompts"], told["whole"], told["completed"]) == (9, 6, 3)
    assert (told["covered"], told["vocabulary"], told["hidden_size"]) == (VOCAB, VOCAB, HIDDEN)
    # 128 tokens look alike, so there are more groups than ⌈1023/149⌉; none of them is asked for to complete.
    checks = told["queries_by_purpose"].pop("check")
    assert told["queries_by_purpose"] == {"probe": 2, "whole": 6 * 128, "completed": 3}
    assert told["queries"] == 2 + 6 * 128 + 3 + checks
    assert told["requests"] == told["queries"] == len(served.asked)
    assert told["queries_saved"] == 3 * 127
    assert told["largest_change"] < 1e-9
    out = tmp_path / "out/logits.safetensors"
    tensors = load_file(out)
    assert tensors["logits"].dtype == torch.float64
    assert (tensors["logits"] - truth(answers, TEXTS, told["reference"])).abs().max() < 1e-9
    assert tensors["token_ids"].tolist() == list(range(VOCAB))
    assert tensors["asked"].sum(1).tolist() == [VOCAB] * 6 + [150] * 3
    with safe_open(out, "pt") as file:
        notes = file.metadata()
    about = json.loads(notes["extraction"])
    assert about["sha256_of_prompts"] == [sha256(text.encode()).hexdigest() for text in TEXTS]
    assert (about["queries"], about["reference"]) == (told["queries"], told["reference"])
    assert str(tmp_path) not in notes["extraction"]
    assert [path.name for path in out.parent.iterdir()] == ["logits.safetensors"]

    exists = invoke(*line)
    assert exists.code == 2
    assert one_sentence(exists.err)
    again = invoke(*line, "--force")
    assert again.code == 0, again.err
    assert len(served.asked) == told["queries"], "everything was in the cache"
    assert (load_file(out)["logits"] - tensors["logits"]).abs().max() < 1e-11, "completion is exact up to rounding"
    words = " ".join(again.out.split())
    assert f"hidden size {HIDDEN}: singular values fall" in words
    assert "vocabulary 1024 of 1024 tokens" in words
    assert "requests sent now 0, for 0" in words


def test_a_cap_leaves_a_file_that_says_so_and_an_error(
    invoke: Invoke, server: tuple[LogitServer, Served], prompts: Path, tmp_path: Path
) -> None:
    answers, served = server
    line = command(served, tmp_path, "--prompts", prompts, "--k", 150, "--max-queries", 40)
    found = invoke(*line, "--json")
    assert found.code == 4
    assert len(served.asked) == 40
    told = json.loads(found.out)
    assert (told["capped"], told["queries"], told["whole"], told["prompts"]) == (True, 40, 0, 1)
    assert "cap of 40 queries was reached when 0 of 9 prompts were done" in found.err
    logits_NV = load_file(tmp_path / "out/logits.safetensors")["logits"]
    known = logits_NV.isfinite()
    assert 200 < known.sum() < VOCAB
    assert (logits_NV - truth(answers, TEXTS[:1], told["reference"]))[known].abs().max() < 1e-9


@pytest.mark.parametrize(
    ("holds", "words"),
    [
        ({"shows": False}, "shows no log-probabilities"),
        ({"bias": "ignored"}, "ignores logit_bias"),
        ({"bias": "refused"}, "refuses logit_bias (it answered 400: logit_bias is not supported)"),
        ({"fail_after": 30}, "out of order"),
    ],
)
def test_what_a_server_withholds_is_one_sentence_and_no_file(
    invoke: Invoke, small: LM, prompts: Path, tmp_path: Path, holds: dict[str, Any], words: str
) -> None:
    with Served(LogitServer(small, **holds)) as served:
        found = invoke(*command(served, tmp_path, "--prompts", prompts))
    assert found.code == 4
    assert words in found.err
    assert one_sentence(found.err)
    assert not (tmp_path / "out").exists()


def test_wrong_words(invoke: Invoke, tmp_path: Path) -> None:
    line = ["extract", "https://nobody.invalid/v1#m", "--tokenizer", "embedded/teacher", "--out"]
    good, empty = tmp_path / "o.safetensors", tmp_path / "empty.txt"
    empty.write_text("\n", encoding="utf-8")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    for words, code, part in (
        ([good], 2, "give one of the two"),
        ([good, "--prompts", "a.txt", "--task", "lookup"], 2, "give one of the two"),
        ([tmp_path / "o.pt", "--task", "lookup"], 2, "should end in .safetensors"),
        ([good, "--prompts", tmp_path / "none.txt"], 3, "There is no file"),
        ([good, "--prompts", tmp_path / "none.csv"], 2, "should end in .txt or .jsonl"),
        ([good, "--prompts", empty], 2, "holds no prompts"),
        ([good, "--prompts", tmp_path / "bad.jsonl"], 2, "line 1, is not a JSON object with a text `prompt`"),
        ([good, "--task", "lookup", "--method", "magic"], 2, "There is no method 'magic'"),
        ([good, "--task", "lookup", "--bias", "-1"], 2, "bias"),
        ([good, "--task", "lookup", "--tokenizer", "embedded/none"], 2, "no embedded model"),
    ):
        found = invoke(*line, *words)
        assert (found.code, part in found.err, one_sentence(found.err)) == (code, True, True), found.err


@pytest.mark.parametrize(("names", "api"), [("legacy", "completions"), ("bytes", "chat"), ("text", "chat")])
def test_bytes_are_told_in_three_ways(
    invoke: Invoke, small: LM, prompts: Path, tmp_path: Path, names: Any, api: str
) -> None:
    answers = LogitServer(small, most=150, names=names)
    with Served(answers) as served:
        line = command(served, tmp_path, "--prompts", prompts, "--k", 150, "--checks", 0, "--max-queries", 130)
        line[1] += f"&api={api}"
        found = invoke(*line, "--json")
    told = json.loads(found.out)
    assert (told["whole"], told["covered"]) == (1, VOCAB)
    logits_NV = load_file(tmp_path / "out/logits.safetensors")["logits"]
    assert (logits_NV[:1] - truth(answers, TEXTS[:1], told["reference"])).abs().max() < 1e-9


@pytest.mark.slow
def test_the_embedded_teacher(invoke: Invoke, tmp_path: Path) -> None:
    """Float32 on the server, tokens by number: the real model's logits at a task's problems."""
    answers = LogitServer(load("embedded/teacher"), most=20, dtype=torch.float32)
    with Served(answers) as served:
        line = command(served, tmp_path, "--task", "lookup", "--n", 2, "--k", 20, "--token-ids", "--json")
        found = invoke(*line)
    assert found.code == 0, found.err
    told = json.loads(found.out)
    assert told["queries_by_purpose"] == {"probe": 2, "whole": 2 * 54, "check": 8}
    assert (told["covered"], told["hidden_size"]) == (VOCAB, None)
    texts = list(answers._logits)
    logits_NV = load_file(tmp_path / "out/logits.safetensors")["logits"]
    errors = (logits_NV - truth(answers, texts, told["reference"])).abs()
    assert errors.max() < 1e-4
    agree = logits_NV.argmax(-1) == torch.stack([answers.logits(text) for text in texts]).argmax(-1)
    assert agree.all()
