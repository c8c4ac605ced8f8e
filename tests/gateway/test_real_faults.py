"""`azeotrope serve --upstream` before a real server that nobody waits for any more, or that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import aiohttp
import openai
import pytest
from serve_drive import server
from upstream_drive import Own, own_server, wait_until

LONG: Any = {"model": "any", "messages": [{"role": "user", "content": "Write a long story."}], "max_tokens": 1900}
SHORT: Any = {**LONG, "max_tokens": 4}
CANCELED = "cancel task"  # in the server's log


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    with own_server(tmp_path_factory.mktemp("upstream")) as found:
        yield found


@pytest.fixture(scope="module")
def url(own: Own) -> Iterator[str]:
    with server("--upstream", own.url + "/v1") as (_, found):
        yield found


@pytest.fixture
def client(own: Own, url: str) -> openai.OpenAI:
    """A client of a gateway whose upstream is there and has nothing to do."""
    if not own.answers():
        own.start()
    wait_until(lambda: not own.busy(), "the slot stays busy")
    return openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=300)


def frees_the_slot(own: Own, before: int) -> None:
    """Wait until the server gave up a request, as it has done `before` times, and has nothing to do."""
    try:
        wait_until(lambda: own.logged(CANCELED) > before, "the server was not told")
    except AssertionError as error:
        tail = own.log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:]
        raise AssertionError("\n".join([str(error), *tail])) from None
    wait_until(lambda: not own.busy(), "the slot stays busy")


def first_piece(stream: Any) -> None:
    """Read until the model has begun."""
    for chunk in stream:
        if chunk.choices and getattr(chunk.choices[0].delta, "reasoning_content", None):
            return
    raise AssertionError("the stream ended before it began")


def test_a_client_that_closes_its_stream_frees_the_slot(client: openai.OpenAI, own: Own) -> None:
    before = own.logged(CANCELED)
    stream = client.chat.completions.create(**LONG, stream=True)
    first_piece(stream)
    assert own.busy()
    stream.close()
    frees_the_slot(own, before)
    assert client.chat.completions.create(**SHORT).usage


async def begin(own: Own, url: str, session: aiohttp.ClientSession) -> asyncio.Future[aiohttp.ClientResponse]:
    """Ask for a long reply that is not streamed; return once the server writes it.

    Its log is not asked: a thread writes it, and a late line of an earlier request would count.
    """
    task = asyncio.ensure_future(session.post(f"{url}/v1/chat/completions", json=LONG))
    while not await asyncio.to_thread(own.busy):
        assert not task.done()
        await asyncio.sleep(0.02)
    return task


def test_a_client_that_goes_before_its_reply_frees_the_slot(client: openai.OpenAI, own: Own, url: str) -> None:
    before = own.logged(CANCELED)

    async def go_away() -> None:
        async with aiohttp.ClientSession() as session:
            task = await begin(own, url, session)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(go_away())
    frees_the_slot(own, before)
    assert client.chat.completions.create(**SHORT).usage


def test_a_server_that_dies_in_the_middle_of_a_stream_and_comes_back(client: openai.OpenAI, own: Own) -> None:
    stream = client.chat.completions.create(**LONG, stream=True)
    first_piece(stream)
    own.kill()
    with pytest.raises(openai.APIError) as told:
        list(stream)
    assert told.value.code == "upstream_error"
    with pytest.raises(openai.InternalServerError) as refused:
        client.chat.completions.create(**SHORT)
    assert (refused.value.status_code, refused.value.code) == (502, "upstream_unreachable")
    own.start()
    assert client.chat.completions.create(**SHORT).usage


def test_a_server_that_dies_before_its_reply(client: openai.OpenAI, own: Own, url: str) -> None:
    async def wait() -> tuple[int, Any]:
        async with aiohttp.ClientSession() as session:
            task = await begin(own, url, session)
            own.kill()
            reply = await task
            return reply.status, await reply.json()

    status, body = asyncio.run(wait())
    assert status == 502
    assert body["error"]["code"] == "upstream_unreachable"


def test_requests_wait_for_the_only_slot(client: openai.OpenAI, url: str) -> None:
    async def all_of_them() -> list[int]:
        async def one() -> int:
            async with (
                aiohttp.ClientSession() as session,
                session.post(f"{url}/v1/chat/completions", json={**SHORT, "stream": True}) as reply,
            ):
                text = await reply.text()
                return text.count("[DONE]")

        return list(await asyncio.gather(*(one() for _ in range(6))))

    assert asyncio.run(all_of_them()) == [1] * 6
