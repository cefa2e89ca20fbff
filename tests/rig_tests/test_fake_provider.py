"""The fake provider does what its scripts say, and records what happened to it."""

import gzip
import zlib

import pytest
import trio

from rig import script
from rig.fake_provider import open_fake_provider
from rig.raw_client import BodyCut, fetch, open_client


async def test_records_the_exact_request():
    """Head and body are kept byte for byte, and attempts are counted."""
    with trio.fail_after(5):
        async with open_fake_provider() as provider:
            provider.default = script.answer(200, {"ok": True})
            response = await fetch(provider.base_url, "POST", "/v1/x?y=1", b'{"a" : 1}', {"X-Odd": " v "})
            assert response.json() == {"ok": True}
            (request,) = provider.asked
            assert request.body == b'{"a" : 1}'
            assert request.head.startswith(b"POST /v1/x?y=1 HTTP/1.1\r\nhost: gateway.test\r\nX-Odd:  v \r\n")
            assert request.header("x-odd") == "v"
            assert request.path == "/v1/x"


async def test_chunked_request_bodies_are_joined():
    """A chunked request is recorded with its decoded body, whatever the cuts."""
    with trio.fail_after(5):
        async with open_fake_provider() as provider, open_client(provider.base_url) as client:
            provider.default = script.answer(200, {})
            raw = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
            for piece in script.cut(raw, 5, 50, 52, 60):
                await client.send(piece)
            await client.read_response()
            assert provider.asked[0].body == b"abcde"


async def test_scripts_are_served_in_order_then_the_default():
    """Queued scripts go first, then `choose`, then the default, then 599."""
    with trio.fail_after(5):
        async with open_fake_provider() as provider:
            provider.enqueue(*script.answer(429, {}))
            provider.choose = lambda request: script.answer(418, {}) if request.path == "/tea" else None
            statuses = [(await fetch(provider.base_url, "POST", path, b"{}")).status for path in ("/x", "/tea", "/x")]
            provider.default = script.answer(200, {})
            statuses.append((await fetch(provider.base_url, "POST", "/x", b"{}")).status)
            assert statuses == [429, 418, 599, 200]


async def test_stream_waits_for_the_event():
    """A script that waits sends nothing before the test says so."""
    with trio.fail_after(5):
        go = trio.Event()
        async with open_fake_provider() as provider, open_client(provider.base_url) as client:
            provider.enqueue(
                script.stream_head(), script.chunk(b"one"), script.until(go), script.chunk(b"two"), script.end_chunks()
            )
            await client.request("POST", "/", b"{}")
            assert (await client.read_head()).status == 200
            assert await client.read_piece() == b"one"
            with trio.move_on_after(0.05) as waited:
                await client.read_piece()
            assert waited.cancelled_caught
            go.set()
            assert await client.read_body() == b"two"


@pytest.mark.parametrize(("step", "how"), [(script.fin(), "FIN"), (script.rst(), "RST")])
async def test_streams_can_be_cut(step, how):
    """FIN and RST end a chunked body without its closing chunk, and the client can tell them apart."""
    with trio.fail_after(5):
        async with open_fake_provider() as provider, open_client(provider.base_url) as client:
            go = trio.Event()
            provider.enqueue(script.stream_head(), script.chunk(b"one"), script.until(go), step)
            await client.request("POST", "/", b"{}")
            await client.read_head()
            assert await client.read_piece() == b"one"
            go.set()
            with pytest.raises(BodyCut) as caught:
                await client.read_body()
            assert caught.value.how == how


async def test_body_shorter_than_announced():
    """A whole body with too large a Content-Length reads as cut."""
    with trio.fail_after(5):
        async with open_fake_provider() as provider:
            provider.enqueue(*script.answer(200, b"{}", length=10), script.fin())
            response = await fetch(provider.base_url, "POST", "/", b"{}")
            assert (response.body, response.cut) == (b"{}", "FIN")


@pytest.mark.parametrize(("close", "how"), [("fin", "FIN"), ("rst", "RST")])
async def test_records_how_and_when_the_peer_closed(close, how):
    """The closing of the peer cancels the script and is recorded with its kind and time."""
    with trio.fail_after(5):
        async with open_fake_provider() as provider, open_client(provider.base_url) as client:
            provider.default = [script.never()]
            await client.request("POST", "/", b"{}")
            connection = (await provider.arrived()).connection
            before_s = trio.current_time()
            getattr(client, close)()
            await connection.closed.wait()
            assert connection.closed_how == how
            assert connection.closed_s is not None
            assert 0 <= connection.closed_s - before_s < 1


async def test_keeps_the_connection_for_the_next_request():
    """Two requests on one connection are two attempts and one connection."""
    with trio.fail_after(5):
        async with open_fake_provider() as provider, open_client(provider.base_url) as client:
            provider.default = script.stream([b"a", b"b"])
            for _ in range(2):
                await client.request("POST", "/", b"{}")
                assert (await client.read_response()).body == b"ab"
            assert provider.statistics() == {"connections": 1, "open": 1, "requests": 2, "scripts_left": 0}


async def test_gzip_can_be_decoded_as_it_arrives():
    """Each gzip chunk of a stream is decodable on arrival; a whole gzip body decodes."""
    with trio.fail_after(5):
        async with open_fake_provider() as provider, open_client(provider.base_url) as client:
            provider.enqueue(*script.stream([b"one", b"two"], gzip=True))
            provider.enqueue(*script.answer(200, b"whole", gzip=True))
            await client.request("POST", "/", b"{}")
            await client.read_head()
            unpacker = zlib.decompressobj(wbits=31)
            assert unpacker.decompress(await client.read_piece()) == b"one"
            assert unpacker.decompress(await client.read_body()) == b"two"
            await client.request("POST", "/", b"{}")
            assert gzip.decompress((await client.read_response()).body) == b"whole"


async def test_pings_and_floods_do_not_end():
    """Pings keep coming; a flood stops counting when the reader stalls."""
    with trio.fail_after(10):
        async with open_fake_provider() as provider:
            provider.enqueue(script.stream_head(), script.pings(b": ping\n\n", every_s=0.01))
            async with open_client(provider.base_url) as client:
                await client.request("POST", "/", b"{}")
                await client.read_head()
                assert [await client.read_piece() for _ in range(3)] == [b": ping\n\n"] * 3
            written = [0]
            provider.enqueue(script.stream_head(), script.flood(b"x" * 65536, written=written))
            async with open_client(provider.base_url, receive_buffer_bytes=4096) as client:
                await client.request("POST", "/", b"{}")
                before = -1
                while before != written[0]:
                    before = written[0]
                    await trio.sleep(0.2)
                assert before < 16 * 1024 * 1024


async def test_lists_its_models_without_counting_an_attempt():
    """GET of a list of models, OpenAI's or Ollama's, is answered from `models` and is not an attempt."""
    with trio.fail_after(5):
        async with open_fake_provider(["m1"]) as provider:
            assert (await fetch(provider.base_url, "GET", "/v1/models")).json()["data"][0]["id"] == "m1"
            assert (await fetch(provider.base_url, "GET", "/api/tags")).json()["models"][0]["name"] == "m1"
            assert provider.asked == []
