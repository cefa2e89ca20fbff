"""HTTP/1.1 taken strictly: what two parsers could read differently is refused in JSON, and the connection ends."""

import json

import pytest
import trio

from rig.edge import EdgeGateway, Permit, edge_config, open_edge
from rig.raw_client import encode_request, fetch, open_client
from securellm.chat import Answer

AUTH = b"Authorization: Bearer good\r\n"
KEY = {"authorization": "Bearer good"}
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

# Each is a complete request, or more than one where an ambiguity would show it. None may reach a view.
AMBIGUOUS = {
    "CL and TE": b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n" + AUTH + b"Content-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE and CL": b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n" + AUTH + b"Transfer-Encoding: chunked\r\n"
    b"Content-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
    + AUTH
    + b"Content-Length: 0\r\nContent-Length: 36\r\n\r\n"
    + SMUGGLED,
    "two equal lengths": b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
    + AUTH
    + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "length list": b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n" + AUTH + b"Content-Length: 2, 3\r\n\r\n{}",
    "signed length": b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n" + AUTH + b"Content-Length: +2\r\n\r\n{}",
    "other encoding": b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
    + AUTH
    + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "hidden encoding": b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
    + AUTH
    + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "space before colon": b"GET /livez HTTP/1.1\r\nHost : a\r\n\r\n",
    "two hosts": b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "host with a path": b"GET /livez HTTP/1.1\r\nHost: x/#@y\r\n\r\n",
    "folded field": b"GET /livez HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
    "bare line feeds": b"GET /livez HTTP/1.1\nHost: a\n\n",
    "NUL in a field": b"GET /livez HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
    "CONNECT": b"CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /livez\r\n\r\n",
    "space in target": b"GET /live z HTTP/1.1\r\nHost: a\r\n\r\n",
    "no target": b"GET  HTTP/1.1\r\nHost: a\r\n\r\n",
    "bytes in target": b"GET /\xc3\xbc HTTP/1.1\r\nHost: a\r\n\r\n",
    "chunk without size": b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
    + AUTH
    + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    "chunk with a long size": b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
    + AUTH
    + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffffffffff\r\n\r\n",
    "chunk of another size": b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
    + AUTH
    + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("data", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
async def test_ambiguous_requests(data: bytes) -> None:
    """One JSON answer of the 400 class, nothing of the request is served, and the connection is closed."""
    with trio.fail_after(10):
        async with open_edge(edge_config(body_idle_timeout_s=5)) as edge, open_client(edge.url) as client:
            await client.send(data)
            response = await client.read_response()
            assert response.status == 400
            assert response.header("connection") == "close"
            assert response.header("x-request-id")
            assert response.json()["error"]["type"] == "bad_request"
            assert await client.read_eof() == b""
            assert edge.gateway.permits == []
            assert b"HTTP/1.1 " not in response.body  # the smuggled request has no answer


@pytest.mark.parametrize(
    "target",
    [
        "//livez",
        "/%6civez",
        "/livez%2f",
        "/v1/../livez",
        "/./livez",
        "http://evil/livez",
        "*",
        "/livez#x",
        "/livez/%2e",
    ],
)
async def test_other_spellings_of_a_path(target: str) -> None:
    """A target that is not canonical is refused before it is routed (T9)."""
    with trio.fail_after(10):
        async with open_edge() as edge:
            response = await fetch(edge.url, "GET", target)
            assert (response.status, response.json()["error"]["code"]) == (400, "invalid_target")


async def test_the_dialect_of_refusals_before_routing() -> None:
    """What is refused on an Anthropic path is told in Anthropic's shape, under both names of the id."""
    with trio.fail_after(10):
        async with open_edge() as edge:
            response = await fetch(edge.url, "GET", "/v1/messages/%2e%2e")
            assert response.status == 400
            assert response.json()["type"] == "error"
            assert response.header("request-id") == response.header("x-request-id") == response.json()["request_id"]
            async with open_client(edge.url) as client:
                await client.send(b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nHost : b\r\n\r\n")
                assert (await client.read_response()).status == 400


async def test_upgrade_to_h2c_is_not_honoured() -> None:
    """The request is answered in HTTP/1.1, and what follows is read as HTTP/1.1."""
    with trio.fail_after(10):
        async with open_edge() as edge, open_client(edge.url) as client:
            upgrade = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQAAP__"}
            await client.request("GET", "/livez", headers=upgrade)
            assert (await client.read_response()).status == 200
            await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            assert (await client.read_response()).status == 400


@pytest.mark.parametrize("target", ["/v1/realtime", "/v1/chat/completions", "/livez"])
async def test_websockets_are_refused_by_name(target: str) -> None:
    """An upgrade to a WebSocket is a 404 that says so; bytes after it go nowhere."""
    upgrade = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "eA==",
    }
    with trio.fail_after(10):
        async with open_edge() as edge, open_client(edge.url) as client:
            await client.send(encode_request("GET", target, headers=upgrade) + b"\x81\x85frame")
            response = await client.read_response()
            assert response.status in (404, 405)
            if response.status == 404:
                assert response.json()["error"]["code"] == "not_available"
            assert response.header("connection") == "close"
            assert await client.read_eof() == b""


async def test_chunked_bodies_arrive_whole() -> None:
    """A chunked body is joined, extensions and trailers of chunks are not part of it, and the connection goes on."""
    chunks = b"5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nTrailer: a\r\n\r\n"
    with trio.fail_after(10):
        async with open_edge() as edge, open_client(edge.url) as client:
            head = encode_request("POST", "/v1/chat/completions", None, KEY | {"transfer-encoding": "chunked"})
            for _ in range(2):
                for byte in head + chunks:
                    await client.send(bytes([byte]))
                assert (await client.read_response()).body == b"hello!"


async def test_hop_by_hop_fields_change_nothing() -> None:
    """`Connection: authorization` does not take the key away from the one who checks it."""
    with trio.fail_after(10):
        async with open_edge() as edge:
            response = await fetch(
                edge.url, "POST", "/v1/chat/completions", b"{}", KEY | {"connection": "authorization, keep-alive"}
            )
            assert response.status == 200


async def test_connection_close_and_http_1_0() -> None:
    """A caller that wants to be closed is closed after its answer; HTTP/1.0 is, too."""
    with trio.fail_after(10):
        async with open_edge() as edge:
            for data in (
                b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                b"GET / HTTP/1.0\r\n\r\n",
                b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
            ):
                async with open_client(edge.url) as client:
                    await client.send(data)
                    assert (await client.read_response()).json()["status"] == "running"
                    assert await client.read_eof() == b""


async def test_no_server_header() -> None:
    """Answers do not tell which server software this is."""
    with trio.fail_after(10):
        async with open_edge() as edge:
            for target in ("/", "/nope", "//"):
                assert (await fetch(edge.url, "GET", target)).header("server") is None


async def test_head_requests_have_no_body() -> None:
    """HEAD is answered with the head of GET, refusals included, and the connection stays in step."""
    with trio.fail_after(10):
        async with open_edge() as edge, open_client(edge.url) as client:
            await client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nHEAD /nope HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.read_head()).status == 200
            assert (await client.read_head()).status == 404
            await client.send(b"HEAD /livez HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n")
            head = await client.read_head()
            assert head.status == 400
            assert await client.read_eof() == b""


async def test_a_view_that_fails_is_a_json_500() -> None:
    """A defect is a 500 in the dialect of the path, settled as failed, and the connection goes on."""

    async def ask(gateway: EdgeGateway, permit: Permit) -> Answer:
        raise KeyError("the prompt")

    with trio.fail_after(10):
        async with open_edge() as edge, open_client(edge.url) as client:
            edge.gateway.script = ask
            await client.request("POST", "/v1/messages", b"{}", KEY)
            response = await client.read_response()
            assert response.status == 500
            assert json.loads(response.body)["error"]["type"] == "api_error"
            assert b"prompt" not in response.body
            assert edge.gateway.log.entries == ["admitted", "settled failed"]
            await client.request("GET", "/livez")
            assert (await client.read_response()).status == 200
