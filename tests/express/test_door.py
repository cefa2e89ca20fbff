"""The express lane's front door: what it serves itself, and what it hands to the reference lane on one connection."""

import pytest
import trio

from rig import doors, script, speech
from rig.fixtures import Lane
from rig.raw_client import encode_request, open_client

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
    bodies = [_BODY.replace(b"Hello", word) for word in (b"first", b"second")]
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
