"""HTTP/1.1 on the raw socket: what two readers could read differently is refused in every lane, and never served.

The tricks are the collection that the parser is tested with; here they meet a running gateway and its provider.
"""

import pytest
import trio

from rig import doors, script, smuggling, speech
from rig.gateway import PROVIDER_KEY, RunningGateway
from rig.raw_client import RawClient, encode_request, open_client

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
BODY = doors.CHAT.body(f"openai/{speech.MODEL}")
TARGET = doors.CHAT.path


async def _refused(client: RawClient, name: str, statuses: set[int]) -> None:
    """One answer of ours in JSON, then the end of the connection."""
    response = await client.read_response()
    assert response.status in statuses, (name, response)
    assert response.header("connection") == "close", name
    assert response.header("x-request-id"), name
    assert response.json()["error"]["type"] == "bad_request", name
    assert await client.read_eof() == b"", name


def _keyed(data: bytes, key: str) -> bytes:
    """The same request with a good key, so that nothing but its form can be what is refused."""
    line, end, rest = data.partition(b"\r\n")
    return line + end + b"Authorization: Bearer " + key.encode() + b"\r\n" + rest if end else data


async def test_ambiguous_heads(gateway: RunningGateway, provider) -> None:
    """Every trick is answered once with 400 and the connection ends; no provider is asked, no smuggled request runs."""
    with trio.fail_after(60):
        for name, (_, data) in smuggling.REQUESTS.items():
            async with open_client(gateway.base_url) as client:
                await client.send(_keyed(data, gateway.key) + SMUGGLED)
                await _refused(client, name, {400})
        assert provider.asked == []


async def test_ambiguous_heads_behind_a_good_request(gateway: RunningGateway, provider) -> None:
    """On a connection that has served a request, too."""
    tricks = [smuggling.REQUESTS[name] for name in ("CL then TE", "two lengths", "a folded field", "bare LFs")]
    for _ in tricks:
        provider.enqueue(*script.answer(200, speech.chat_whole("ok")))
    with trio.fail_after(20):
        for number, (_, data) in enumerate(tricks, 1):
            async with open_client(gateway.base_url) as client:
                await client.request("POST", TARGET, BODY, {"authorization": f"Bearer {gateway.key}"})
                assert (await client.read_response()).status == 200
                await client.send(_keyed(data, gateway.key))
                await _refused(client, str(number), {400})
        assert len(provider.asked) == len(tricks)


async def test_ambiguous_chunks(gateway: RunningGateway, provider) -> None:
    """A chunked body that breaks its framing is a 400, whatever it would have said, and nothing of it goes up."""
    head = {"authorization": f"Bearer {gateway.key}", "transfer-encoding": "chunked"}
    with trio.fail_after(60):
        for name, (_, data) in smuggling.BODIES.items():
            async with open_client(gateway.base_url) as client:
                await client.send(encode_request("POST", TARGET, None, head) + data + SMUGGLED)
                await _refused(client, name, {400})
        assert provider.asked == []


async def test_heads_over_the_bounds(gateway: RunningGateway) -> None:
    """A head of too many bytes or fields is 431."""
    with trio.fail_after(20):
        for name, fields in (("bytes", b"X: " + b"x" * 70_000 + b"\r\n"), ("fields", b"X:\r\n" * 300)):
            async with open_client(gateway.base_url) as client:
                await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
                await _refused(client, name, {431})


async def test_connection_names_cannot_take_the_key_away(gateway: RunningGateway, provider) -> None:
    """`Connection: authorization` strips neither the caller's key here nor the operator's on the way up."""
    provider.enqueue(*script.answer(200, speech.chat_whole("ok")))
    headers = {"authorization": f"Bearer {gateway.key}", "connection": "keep-alive, authorization, host"}
    with trio.fail_after(10):
        async with open_client(gateway.base_url) as client:
            await client.request("POST", TARGET, BODY, headers)
            assert (await client.read_response()).status == 200
        (asked,) = provider.asked
        assert asked.header("authorization") == f"Bearer {PROVIDER_KEY}"
        assert asked.header("connection") in (None, "keep-alive")


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
async def test_bytes_behind_an_upgrade_go_nowhere(gateway: RunningGateway, provider, protocol: str) -> None:
    """No protocol is switched to, and what follows such a request is never another request to a provider."""
    headers = {"connection": "Upgrade", "upgrade": protocol, "authorization": f"Bearer {gateway.key}"}
    with trio.fail_after(10):
        async with open_client(gateway.base_url) as client:
            await client.send(encode_request("GET", TARGET, headers=headers) + b"\x81\x85\0\0\0\0frame" + SMUGGLED)
            assert (await client.read_response()).status in (404, 405)
            after = await client.read_eof()
            assert after == b"" or after.startswith(b"HTTP/1.1 400 ")
            assert after.count(b"HTTP/1.1 ") <= 1
        assert provider.asked == []


async def test_pipelined_requests_are_answered_in_order(gateway: RunningGateway, provider) -> None:
    """Several requests in one segment, hot ones and others, get their own answers in their order."""
    for text in ("first", "second"):
        provider.enqueue(*script.answer(200, speech.chat_whole(text)))
    headers = {"authorization": f"Bearer {gateway.key}"}
    hot = encode_request("POST", TARGET, BODY, headers)
    with trio.fail_after(10):
        async with open_client(gateway.base_url) as client:
            await client.send(hot + encode_request("GET", "/livez") + hot + encode_request("GET", "/nope"))
            statuses = []
            bodies = b""
            for _ in range(4):
                response = await client.read_response()
                statuses.append(response.status)
                bodies += response.body
        assert statuses == [200, 200, 200, 404]
        assert bodies.index(b"first") < bodies.index(b"second")


async def test_a_request_byte_by_byte(gateway: RunningGateway, provider) -> None:
    """However it is cut, a request is one request; with a chunked body, too."""
    for text in ("ok", "ok"):
        provider.enqueue(*script.answer(200, speech.chat_whole(text)))
    headers = {"authorization": f"Bearer {gateway.key}"}
    chunked = encode_request("POST", TARGET, None, headers | {"transfer-encoding": "chunked"})
    chunked += b"3;x=y\r\n" + BODY[:3] + b"\r\n%x\r\n" % len(BODY[3:]) + BODY[3:] + b"\r\n0\r\nX: y\r\n\r\n"
    with trio.fail_after(20):
        async with open_client(gateway.base_url) as client:
            for data in (encode_request("POST", TARGET, BODY, headers), chunked):
                for byte in data:
                    await client.send(bytes([byte]))
                assert (await client.read_response()).status == 200
    assert [asked.body == provider.asked[0].body for asked in provider.asked] == [True, True]
