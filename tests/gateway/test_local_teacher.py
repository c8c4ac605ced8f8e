"""A model of our own behind the same addresses, with defenses that act while it writes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from gateway_drive import lines
from gateway_drive import serving_app as serving
from hypothesis import given
from hypothesis import strategies as st

from azeotrope.core.errors import ConfigError
from azeotrope.core.sampling import Sampling
from azeotrope.defenses.ads import ADS
from azeotrope.defenses.base import Bench
from azeotrope.defenses.poe import ProductOfExperts
from azeotrope.gateway.app import Gateway
from azeotrope.gateway.local import LocalExchange, LocalUpstream, Speech, with_tags
from azeotrope.gateway.settings import ServerFile, Timeouts
from azeotrope.gateway.table import PolicyBox
from azeotrope.gateway.upstream import UpstreamError
from azeotrope.models.decode import LogitRule, decode
from azeotrope.models.lm import load
from azeotrope.tasks.lookup import Lookup

POLICY = """
azeotrope_gateway: 1
stances:
  plain: {}
  tilted: {fidelity: free, distillability: lowered, defenses: [{kind: poe, gamma: 0.6}]}
  antidistilled: {fidelity: free, distillability: lowered, defenses: [{kind: ads, lam: 0.2, holdout: 32}]}
contexts:
  - {name: antidistilled, when: {model: ads}, stance: antidistilled}
  - {name: tilted, when: {model: tilted}, stance: tilted}
  - {name: all, stance: plain}
"""
PROBLEMS = Lookup().problems("test", 4, 3)
CHAT = "/v1/chat/completions"


def box(tmp_path: Path, text: str = POLICY) -> PolicyBox:
    path = tmp_path / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    return PolicyBox(path)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    return Gateway(ServerFile.model_validate({"teacher": {"rows": 3}}), box(tmp_path_factory.mktemp("p")))


@pytest.fixture(scope="module")
def url(gateway: Gateway) -> Iterator[str]:
    with serving(gateway) as found:
        yield found


async def ask(url: str, prompt: str, **more: Any) -> tuple[int, str]:
    """Status and text."""
    body = {"model": "any", "messages": [{"role": "user", "content": prompt}], **more}
    async with aiohttp.ClientSession() as session, session.post(url + CHAT, json=body) as reply:
        return reply.status, await reply.text()


def whole(text: str) -> tuple[str, str]:
    """Reasoning and answer of a reply, streamed or not."""
    if text.startswith("data:"):
        deltas = [c["delta"] for one in lines(text) for c in one["choices"]]
        return tuple("".join(d.get(name) or "" for d in deltas) for name in ("reasoning_content", "content"))  # type: ignore[return-value]
    said = json.loads(text)["choices"][0]["message"]
    return said.get("reasoning_content", ""), said["content"]


@cache
def rules_of(model: str) -> list[LogitRule]:
    """What the lab binds."""
    bench = Bench(load("embedded/teacher"), Lookup(), Sampling(temperature=0.6))
    defenses = {"tilted": ProductOfExperts(gamma=0.6), "ads": ADS(lam=0.2, holdout=32)}
    return [defenses[model].bind(bench)] if model in defenses else []


def expected(prompt: str, seed: int, model: str = "any") -> str:
    """What the lab's decoder writes."""
    lm, sampling, rules = load("embedded/teacher"), Sampling(temperature=0.6), rules_of(model)
    (sample,) = decode(lm, [lm.encode(prompt)], [seed], sampling, rules=rules, max_new_tokens=200)
    return lm.decode(sample.ids)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["any", "tilted", "ads"])
def test_it_writes_what_the_lab_writes(url: str, stream: bool, model: str) -> None:
    prompt, differ = PROBLEMS[0].prompt, 0
    for seed in (7, 8, 9, 10):
        status, text = asyncio.run(ask(url, prompt, seed=seed, stream=stream, model=model))
        assert status == 200
        thoughts, answer = whole(text)
        written = expected(prompt, seed, model)
        assert f"<think>{thoughts}</think>{answer}" == written
        differ += written != expected(prompt, seed)
    assert bool(differ) == (model != "any")


def test_many_at_a_time(url: str) -> None:
    async def all_of_them() -> list[tuple[int, str]]:
        jobs = [ask(url, p.prompt, seed=i, stream=bool(i % 2)) for i, p in enumerate(PROBLEMS * 2)]
        return await asyncio.gather(*jobs)

    for i, (status, text) in enumerate(asyncio.run(all_of_them())):
        assert status == 200
        thoughts, answer = whole(text)
        assert f"<think>{thoughts}</think>{answer}" == expected((PROBLEMS * 2)[i].prompt, i)


def test_limits_stops_choices_and_usage(url: str) -> None:
    prompt = PROBLEMS[0].prompt
    _, text = asyncio.run(ask(url, prompt, seed=7, max_tokens=5))
    told = json.loads(text)
    assert told["choices"][0]["finish_reason"] == "length"
    assert told["usage"]["completion_tokens"] == 5
    assert told["usage"]["prompt_tokens"] == len(load("embedded/teacher").encode(prompt))
    _, text = asyncio.run(ask(url, prompt, seed=7, stop=["The answer"]))
    assert json.loads(text)["choices"][0]["finish_reason"] == "stop"
    assert "The answer" not in text
    _, text = asyncio.run(ask(url, prompt, seed=7, n=2))
    assert [c["index"] for c in json.loads(text)["choices"]] == [0, 1]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"presence_penalty": 1}, "presence_penalty"),
    ],
)
def test_what_it_cannot_do_is_said(url: str, change: dict[str, Any], param: str) -> None:
    status, text = asyncio.run(ask(url, "x", **change))
    assert (status, json.loads(text)["error"]["param"]) == (400, param)


def test_a_conversation_that_is_too_long(url: str) -> None:
    status, text = asyncio.run(ask(url, "word " * 2000))
    assert (status, json.loads(text)["error"]["code"]) == (400, "context_length_exceeded")


def test_who_goes_frees_the_row(url: str, gateway: Gateway) -> None:
    async def leave() -> None:
        body = {"model": "any", "messages": [{"role": "user", "content": PROBLEMS[0].prompt}], "stream": True}
        async with aiohttp.ClientSession() as session, session.post(url + CHAT, json=body) as reply:
            await reply.content.readany()
            reply.close()

    asyncio.run(leave())
    engine = gateway._upstreams["teacher"]._engine  # type: ignore[attr-defined]
    until = time.monotonic() + 20
    while (engine.active or gateway.active) and time.monotonic() < until:
        time.sleep(0.01)
    assert (engine.active, gateway.active) == (0, 0)


def test_defenses_that_cannot_be_had_stop_the_start(tmp_path: Path) -> None:
    away = ServerFile.model_validate({"upstreams": {"main": {"url": "http://x/v1"}}})
    with pytest.raises(ConfigError, match="a server elsewhere does not let us do"):
        Gateway(away, box(tmp_path))


def test_a_reload_cannot_bring_what_was_not_set_up(gateway: Gateway) -> None:
    path = gateway.policy._path
    assert path is not None
    before = gateway.policy.current
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("gamma: 0.6", "gamma: 0.4"), encoding="utf-8")
    assert gateway.policy.reload() is False
    assert "restart for it" in gateway.policy.error
    assert gateway.policy.current is before
    path.write_text(text, encoding="utf-8")
    gateway.policy.reload()


TOKENS = ["a", "b ", "é"[:1], "\U0001f600", "sto", "p", "p here", "x"]


@given(st.lists(st.integers(0, 7), max_size=12), st.sampled_from([(), ("stop",), ("stop", "b x")]))
def test_speech_is_the_text_up_to_the_first_stop(ids: list[int], stops: tuple[str, ...]) -> None:
    """Characters arrive in bytes, as byte-level tokenizers make them."""
    pieces = [byte for i in ids for byte in TOKENS[i].encode()]

    def text(some: Any) -> str:
        return bytes(some).decode("utf-8", "replace")

    speech, said = Speech(text, stops), ""
    for byte in pieces:
        said += speech.add(byte)
        if speech.stopped:
            break
    said += speech.end()
    full = text(pieces)
    ends = [full.find(stop) for stop in stops if stop in full]
    assert said == full[: min(ends)] if ends else said == full


TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)


def test_a_template_that_opens_the_reasoning_is_seen(tmp_path: Path) -> None:
    """Also where the reply is cut before the reasoning ends, and whatever the user writes."""
    hide = POLICY.replace("plain: {}", "plain: {disclose: none}")
    gateway = Gateway(ServerFile.model_validate({"teacher": {}}), box(tmp_path, hide))
    teacher = gateway._upstreams["teacher"]
    assert isinstance(teacher, LocalUpstream)
    said = [{"role": "user", "content": "Is </think> or <think> a tag?"}]
    assert teacher.opening(said) == ""
    teacher.lm.tokenizer.chat_template = TEMPLATE
    try:
        assert teacher.opening(said) == "<|assistant|><think>\n"
        with serving(gateway) as url:
            for stream in (False, True):
                status, text = asyncio.run(ask(url, PROBLEMS[0].prompt, seed=7, stream=stream, max_tokens=8))
                assert (status, whole(text)[1]) == (200, "")
    finally:
        teacher.lm.tokenizer.chat_template = None


def test_special_tokens_that_are_tags_stay() -> None:
    class Words:
        all_special_tokens = ("<s>", "[THINK]", "[/THINK]")

        def convert_tokens_to_ids(self, token: str) -> int:
            return {"[THINK]": 1, "[/THINK]": 2}[token]

    class Model:
        tokenizer = Words()

        def decode(self, ids: Sequence[int]) -> str:
            return "".join("abcdefgh"[i] for i in ids if i > 2)

    read = with_tags(Model())
    assert read([0, 1, 3, 4, 2, 5, 0]) == "[THINK]de[/THINK]f"
    assert read([3, 4]) == "de"


def test_a_defense_is_not_cooled_away(gateway: Gateway) -> None:
    teacher = gateway._upstreams["teacher"]
    assert isinstance(teacher, LocalUpstream)
    asked = [{"temperature": t} for t in (0.0, 0.01, 0.9, 0.913)] + [{}]
    assert [teacher._sampling(one, least=0.6).temperature for one in asked] == [0.6, 0.6, 0.9, 0.9, 0.6]
    assert [teacher._sampling(one, least=0.63).temperature for one in asked] == [0.63, 0.63, 0.88, 0.93, 0.63]
    assert [teacher._sampling(one, least=0.0).temperature for one in asked] == [0.0, 0.01, 0.9, 0.913, 0.6]


def test_who_writes_nothing_is_not_waited_for() -> None:
    async def test() -> None:
        exchange = LocalExchange(1, 1, times=Timeouts(first=0.01))
        with pytest.raises(UpstreamError) as error:
            await exchange.read()
        assert error.value.problem.code == "upstream_timeout"
        assert exchange.left(), "its rows are given back"

    asyncio.run(test())


def test_replies_of_defenses_that_act_while_the_model_writes_are_recorded_as_altered(
    url: str, gateway: Gateway
) -> None:
    told: list[bool] = []
    gateway.over.append(lambda case: told.append(case.row().altered))
    for model in ("any", "tilted"):
        assert asyncio.run(ask(url, PROBLEMS[1].prompt, model=model, max_tokens=3))[0] == 200
    gateway.over.pop()
    assert told == [False, True]
