"""Stopping: what is open ends in an error event of its dialect, what comes is refused (guarantee 21, in part)."""

import pytest
import trio

from rig import doors, script, speech
from rig.pairs import FAMILIES, Pair
from rig.raw_client import open_client
from securellm.chat import Status


@pytest.mark.parametrize("pair", FAMILIES, ids=str)
async def test_open_streams_end_in_an_error_event(gateway, provider, pair: Pair):
    """When the drain is over an open stream gets `shutting_down`, is cut, closed upstream and settled as shutdown."""
    assert pair.speech.events is not None
    events = pair.speech.events(("Hello",))
    first = next(number for number, event in enumerate(events) if b"Hello" in event)
    provider.enqueue(*script.stream(events[: first + 1], pair.speech.kind, ended=False), script.never())
    with trio.fail_after(10):
        async with open_client(gateway.base_url) as client:
            await client.request("POST", pair.door.path, pair.door.body(pair.model, stream=True), pair.door.auth())
            assert (await client.read_head()).status == 200
            delivered = await client.read_until(b"Hello")
            gateway.runtime.gateway.stop_accepting()
            gateway.runtime.gateway.end_streams()
            body = delivered + await client.read_eof()
            await provider.asked[0].connection.closed.wait()
        assert pair.door.terminal not in body
        assert b"shutting_down" in body or b"stopping" in body
        settlement = await gateway.only_settlement()
        assert settlement.outcome.status is Status.SHUTDOWN
        assert settlement.outcome.error_code == "shutting_down"
        assert settlement.usage is not None
        assert settlement.usage.completion_tokens > 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_waiting_requests_get_a_status(gateway, provider, stream: bool):
    """A request that has no answer yet gets a real 503, and its provider's connection is closed."""
    provider.enqueue(script.never())
    with trio.fail_after(10):
        async with open_client(gateway.base_url) as client:
            body = doors.CHAT.body("openai/m1", stream=stream)
            await client.request("POST", doors.CHAT.path, body, doors.CHAT.auth())
            asked = await provider.arrived()
            gateway.runtime.gateway.stop_accepting()
            gateway.runtime.gateway.end_streams()
            response = await client.read_response()
            assert response.status == 503, response
            assert doors.CHAT.error_of(response)["code"] == "shutting_down"
            await asked.connection.closed.wait()
        assert (await gateway.only_settlement()).outcome.status is Status.SHUTDOWN


async def test_open_streams_finish_while_draining(gateway, provider):
    """Stopping to accept does not touch a stream that is open; a new request is refused with 503 and Retry-After."""
    go = trio.Event()
    events = speech.CHAT.events(("Hel", "lo"))
    provider.enqueue(
        script.stream_head(), script.chunk(events[0] + events[1]), script.until(go), *script.stream(events[2:])[1:]
    )
    with trio.fail_after(10):
        async with open_client(gateway.base_url) as client, open_client(gateway.base_url) as late:
            body = doors.CHAT.body("openai/m1", stream=True)
            await client.request("POST", doors.CHAT.path, body, doors.CHAT.auth())
            await client.read_head()
            delivered = await client.read_until(b"Hel")
            gateway.runtime.gateway.stop_accepting()
            await late.request("POST", doors.CHAT.path, body, doors.CHAT.auth())
            refused = await late.read_response()
            assert refused.status == 503
            assert doors.CHAT.error_of(refused)["code"] == "shutting_down"
            assert refused.header("retry-after") is not None
            go.set()
            delivered += await client.read_body()
        assert doors.CHAT.text_of_stream is not None
        assert doors.CHAT.text_of_stream(delivered) == "Hello"
        assert delivered.endswith(b"data: [DONE]\n\n")
        assert len(provider.asked) == 1


async def test_stopping_the_server_settles_what_is_open(gateway, provider):
    """A gateway that is torn down leaves no request without its one settlement and no upstream connection open."""
    provider.default = [script.stream_head(), script.chunk(speech.CHAT.events(("Hello",))[1]), script.never()]
    with trio.fail_after(10):
        async with open_client(gateway.base_url) as one, open_client(gateway.base_url) as two:
            for client in (one, two):
                await client.request(
                    "POST", doors.CHAT.path, doors.CHAT.body("openai/m1", stream=True), doors.CHAT.auth()
                )
                await client.read_head()
            await gateway.stop()
            await gateway.settled(2)
            for asked in provider.asked:
                await asked.connection.closed.wait()
        assert len(gateway.settlements) == 2
        assert all(settlement.outcome.status is not Status.SUCCESS for settlement in gateway.settlements)
