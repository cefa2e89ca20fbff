"""The express lane's front door: what it serves itself, and what it hands to the reference lane on one connection."""

import pytest
import trio

from rig import doors, script, speech
from rig.fixtures import Lane
from rig.raw_client import RawClient, encode_request, open_client

pytestmark = pytest.mark.compiled

_CHAT = doors.CHAT
_BODY = _CHAT.body("openai/m1")


@pytest.fixture
def lane() -> Lane:
    """The express lane with its own client."""
    return "express", "native", False


async def test_other_requests_go_on_in_the_reference_lane(gateway, provider):
    """On one connection: hot, cold, and hot again; every answer is complete and in order."""
    provider.default = script.answer(200, speech.CHAT.whole("ok"))
    with trio.fail_after(20):
        async with open_client(gateway.base_url) as client:
            for method, target, body, status in (
                ("POST", _CHAT.path, _BODY, 200),
                ("GET", "/v1/models", None, 200),
                ("POST", _CHAT.path, _BODY, 200),
                ("GET", "/nowhere", None, 404),
            ):
                await client.request(method, target, body, _CHAT.auth())
                assert (await client.read_response()).status == status
    assert len(provider.asked) == 2


async def test_pipelined_requests_are_answered_in_order(gateway, provider):
    """Hot, hot and cold in one write: what is read ahead is served next, by whoever serves it."""
    provider.choose = lambda request: script.answer(200, speech.CHAT.whole(request.json()["messages"][0]["content"]))
    bodies = [_BODY.replace(b"hello", word) for word in (b"first", b"second")]
    data = b"".join(encode_request("POST", _CHAT.path, body, _CHAT.auth()) for body in bodies)
    with trio.fail_after(20):
        async with open_client(gateway.base_url) as client:
            await client.send(data + encode_request("GET", "/livez"))
            for _ in bodies:
                assert (await client.read_response()).status == 200
            assert (await client.read_response()).status == 200
    assert [request.body for request in provider.asked] == [body.replace(b'"openai/m1"', b'"m1"') for body in bodies]


async def test_a_head_in_pieces_is_served(gateway, provider):
    """A head that arrives byte by byte, and a body behind it, are one request."""
    provider.enqueue(*script.answer(200, speech.CHAT.whole("ok")))
    with trio.fail_after(20):
        async with open_client(gateway.base_url) as client:
            data = encode_request("POST", _CHAT.path, _BODY, _CHAT.auth())
            for start in range(0, len(data), 7):
                await client.send(data[start : start + 7])
                await trio.lowlevel.checkpoint()
            assert (await client.read_response()).status == 200


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [8_000, 8_192, 9_000, 100_000, 600_000])
async def test_large_bodies_end_where_they_end(gateway, provider, size: int, chunked: bool):
    """However large and however cut: the body is what was announced, and what comes behind it is served next."""
    provider.default = script.answer(200, speech.CHAT.whole("ok"))
    bodies = [_BODY.replace(b"hello", letter * size) for letter in (b"a", b"b", b"c")]
    data = b"".join(_framed(body, chunked) for body in bodies) + encode_request("GET", "/livez")
    with trio.fail_after(30):
        for cut in (len(data), 200, 8_192, 8_193, size + 10, 131_072):
            before = len(provider.asked)
            async with open_client(gateway.base_url) as client, trio.open_nursery() as nursery:
                nursery.start_soon(_send_cut, client, data, cut)
                for _ in range(4):
                    assert (await client.read_response()).status == 200
            asked = [request.body for request in provider.asked[before:]]
            assert asked == [body.replace(b'"openai/m1"', b'"m1"') for body in bodies]


def _framed(body: bytes, chunked: bool) -> bytes:
    if not chunked:
        return encode_request("POST", _CHAT.path, body, _CHAT.auth())
    head = encode_request("POST", _CHAT.path, None, {**_CHAT.auth(), "transfer-encoding": "chunked"})
    pieces = (body[at : at + 5000] for at in range(0, len(body), 5000))
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


async def _send_cut(client: RawClient, data: bytes, cut: int) -> None:
    """The first `cut` bytes, and the rest when they have been read, most likely."""
    await client.send(data[:cut])
    await trio.sleep(0.01)
    await client.send(data[cut:])


async def test_a_query_leaves_the_request_hot(gateway, provider):
    """`?beta=true`, which Anthropic's SDK sends, changes nothing; a target of another form is refused."""
    provider.enqueue(*script.answer(200, speech.MESSAGES.whole("ok")))
    body = doors.MESSAGES.body("anthropic/m1")
    with trio.fail_after(20):
        async with open_client(gateway.base_url) as client:
            await client.request("POST", "/v1/messages?beta=true", body, doors.MESSAGES.auth())
            assert (await client.read_response()).status == 200
            await client.request("POST", "/v1/%6Dessages", body, doors.MESSAGES.auth())
            assert (await client.read_response()).status == 400


async def test_answers_have_what_the_other_lane_sends(serving, provider):
    """Date, id, length, and the headers for a listed origin."""
    provider.enqueue(*script.answer(200, speech.CHAT.whole("ok")))
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, security={"allowed_origins": ["https://app.example"]})
        response = await gateway.ask(_CHAT, _BODY, {"origin": "https://app.example"})
        assert response.status == 200
        assert response.header("date").endswith("GMT")
        assert response.header("x-request-id")
        assert response.header("content-length") == str(len(response.body))
        assert response.header("access-control-allow-origin") == "https://app.example"
