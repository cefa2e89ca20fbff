"""Connections on real sockets: every way in which the far side can delay is bounded, and a hang-up is noticed."""

import socket
import struct

import pytest
import trio

from rig.edge import EdgeGateway, Permit, Pulled, edge_config, open_edge, streaming
from rig.raw_client import encode_request, fetch, open_client
from securellm.chat import Answer, Status

AUTH = {"authorization": "Bearer good"}
CHAT = "/v1/chat/completions"
BODY = b'{"model":"x"}'


async def test_idle_connections_close() -> None:
    """A connection that never asks, and one that was served before, are both closed after the keep-alive time (T3)."""
    with trio.fail_after(10):
        async with open_edge(edge_config(keep_alive_timeout_s=0.3)) as edge:
            async with open_client(edge.url) as fresh, open_client(edge.url) as served:
                await served.request("POST", CHAT, BODY, AUTH)
                assert (await served.read_response()).status == 200
                started_s = trio.current_time()
                assert await served.read_eof() == b""
                assert await fresh.read_eof() == b""
                assert 0.2 < trio.current_time() - started_s < 3


async def test_keep_alive_serves_again_within_its_time() -> None:
    """A kept connection takes another request shortly before it would be closed, and then has the full time again."""
    with trio.fail_after(10):
        async with open_edge(edge_config(keep_alive_timeout_s=0.6)) as edge, open_client(edge.url) as client:
            for _ in range(3):
                await client.request("POST", CHAT, BODY, AUTH)
                response = await client.read_response()
                assert (response.status, response.header("connection")) == (200, None)
                await trio.sleep(0.4)


def test_keep_alive_outlasts_a_load_balancer() -> None:
    """The default is longer than the 60 s for which load balancers keep idle connections (T32)."""
    assert edge_config().server.keep_alive_timeout_s == 75


async def test_slow_head_is_answered_with_408() -> None:
    """A head that dribbles in is given head_timeout_s from its first byte, then a JSON 408 and the close."""
    with trio.fail_after(10):
        async with open_edge(edge_config(head_timeout_s=0.3)) as edge, open_client(edge.url) as client:
            started_s = trio.current_time()
            async with trio.open_nursery() as nursery:

                async def dribble() -> None:
                    for byte in encode_request("GET", "/", headers={"x-long": "a" * 500}):
                        try:
                            await client.send(bytes([byte]))
                        except OSError:
                            return
                        await trio.sleep(0.02)

                nursery.start_soon(dribble)
                response = await client.read_response()
                elapsed_s = trio.current_time() - started_s
                nursery.cancel_scope.cancel()
            assert response.status == 408
            assert response.json()["error"]["code"] == "request_timeout"
            assert "server.head_timeout_s" in response.json()["error"]["message"]
            assert response.header("connection") == "close"
            assert 0.2 < elapsed_s < 3


async def test_slow_second_head() -> None:
    """The bound on the head holds on a kept connection, too."""
    with trio.fail_after(10):
        async with open_edge(edge_config(head_timeout_s=0.3)) as edge, open_client(edge.url) as client:
            await client.request("GET", "/livez")
            assert (await client.read_response()).status == 200
            await client.send(b"GET / HT")
            assert (await client.read_response()).status == 408


async def test_head_over_the_bound_is_431() -> None:
    """A head over max_head_bytes is a JSON 431, in one piece or without an end."""
    with trio.fail_after(10):
        async with open_edge(edge_config(max_head_bytes=2000)) as edge:
            response = await fetch(edge.url, "GET", "/", headers={"x-long": "a" * 2000})
            assert (response.status, response.json()["error"]["code"]) == (431, "head_too_large")
            assert "server.max_head_bytes" in response.json()["error"]["message"]
            async with open_client(edge.url) as client:
                await client.send(b"GET / HTTP/1.1\r\nx: " + b"a" * 3000)
                assert (await client.read_response()).status == 431


async def test_slow_body_is_answered_with_408() -> None:
    """A body that stops is the gateway's to refuse; its 408 reaches the caller and the connection ends."""
    with trio.fail_after(10):
        async with open_edge(edge_config(body_idle_timeout_s=0.2)) as edge, open_client(edge.url) as client:
            await client.send(encode_request("POST", CHAT, BODY, AUTH)[:-3])
            response = await client.read_response()
            assert (response.status, response.json()["error"]["code"]) == (408, "request_timeout")
            assert response.header("connection") == "close"
            assert await client.read_eof() == b""


async def test_too_large_body_is_answered_with_413() -> None:
    """Announced or chunked, a body over the bound is a JSON 413 that the caller can read while it still sends."""
    with trio.fail_after(20):
        async with open_edge(edge_config(max_request_size_bytes=1_000_000)) as edge:
            async with open_client(edge.url) as client:
                await client.request("POST", CHAT, b"x" * 3_000_000, AUTH)
                response = await client.read_response()
                assert (response.status, response.json()["error"]["code"]) == (413, "payload_too_large")
            async with open_client(edge.url) as client:
                head = encode_request("POST", CHAT, None, AUTH | {"transfer-encoding": "chunked"})
                await client.send(head + b"".join(b"100000\r\n" + b"x" * 0x100000 + b"\r\n" for _ in range(2)))
                assert (await client.read_response()).status == 413


async def test_early_401_can_be_read_while_10_mb_are_on_their_way() -> None:
    """The answer to a bad key comes before the body; a caller that writes all first still reads it, without a reset."""
    with trio.fail_after(20):
        async with open_edge() as edge, open_client(edge.url) as client:
            await client.request("POST", CHAT, b"x" * 10_000_000, {"authorization": "Bearer bad"})
            response = await client.read_response()
            assert (response.status, response.json()["error"]["code"]) == (401, "invalid_api_key")
            assert response.header("connection") == "close"
            assert await client.read_eof() == b""
            assert client._how == "FIN"
            assert not edge.gateway.body_asked.is_set()


async def test_continue_is_sent_after_the_key_was_checked() -> None:
    """`Expect: 100-continue`: a good key gets 100 when the body is asked for, a bad one gets 401 and no 100."""
    expect = {"expect": "100-continue", "content-length": str(len(BODY))}
    with trio.fail_after(10):
        async with open_edge() as edge:
            async with open_client(edge.url) as client:
                await client.send(encode_request("POST", CHAT, None, AUTH | expect))
                assert (await client.read_head()).status == 100
                assert edge.gateway.body_asked.is_set()
                await client.send(BODY)
                assert (await client.read_response()).body == BODY
            async with open_client(edge.url) as client:
                await client.send(encode_request("POST", CHAT, None, expect))
                assert (await client.read_response()).status == 401
                assert await client.read_eof() == b""


async def test_lingering_is_bounded() -> None:
    """A caller that goes on sending for ever after an early answer is cut in the end."""
    with trio.fail_after(10):
        async with open_edge(edge_config(max_request_size_bytes=100_000)) as edge, open_client(edge.url) as client:
            await client.send(encode_request("POST", CHAT, None, {"content-length": "1000000000"}))
            assert (await client.read_response()).status == 401
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                await client.send(b"x" * 200_000_000)


@pytest.mark.parametrize("how", ["fin", "rst", "half_close"])
@pytest.mark.parametrize("phase", ["asking", "streaming"])
async def test_hang_up_is_noticed(phase: str, how: str) -> None:
    """FIN, RST and half-close end the request at once, before the first byte and amid a stream (T7, T8)."""
    waiting = trio.Event()
    ended_s: list[float] = []

    async def wait_for_ever(pull: int = 1) -> None:
        if pull == 0:
            return
        waiting.set()
        try:
            await trio.sleep_forever()
        finally:
            ended_s.append(trio.current_time())

    async def ask(gateway: EdgeGateway, permit: Permit) -> Answer:
        await wait_for_ever()
        raise AssertionError("unreachable")

    with trio.fail_after(10):
        async with open_edge() as edge, open_client(edge.url) as client:
            edge.gateway.script = ask if phase == "asking" else streaming(Pulled(b"a"), wait=wait_for_ever)
            await client.request("POST", CHAT, BODY, AUTH)
            await waiting.wait()
            if phase == "streaming":
                assert (await client.read_head()).status == 200
                assert await client.read_piece() == b"a"
            hung_up_s = trio.current_time()
            getattr(client, how)()
            await edge.gateway.log.until("settled cancelled")
            assert ended_s[0] - hung_up_s < 1  # promised are 100 ms
            assert edge.gateway.log.entries[-2:] in (
                ["settled cancelled", "closed"],
                ["closed", "settled cancelled"],
                ["admitted", "settled cancelled"],
            )
            outcome = edge.gateway.permits[-1].outcome
            assert outcome is not None
            assert outcome.status is Status.CANCELLED


async def test_hang_up_amid_the_body() -> None:
    """A caller who goes away before the body is complete ends the request while it is being let in."""
    with trio.fail_after(10):
        async with open_edge(edge_config(body_idle_timeout_s=5)) as edge, open_client(edge.url) as client:
            await client.send(encode_request("POST", CHAT, BODY, AUTH)[:-3])
            await edge.gateway.body_asked.wait()
            client.rst()
            await edge.gateway.log.until("refused cancelled")
            assert edge.gateway.log.entries == ["refused cancelled"]


async def test_hang_up_behind_a_pipelined_request() -> None:
    """Bytes of a next request, read ahead, do not hide that the caller has gone."""
    waiting = trio.Event()

    async def ask(gateway: EdgeGateway, permit: Permit) -> Answer:
        waiting.set()
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    with trio.fail_after(10):
        async with open_edge() as edge, open_client(edge.url) as client:
            edge.gateway.script = ask
            await client.send(encode_request("POST", CHAT, BODY, AUTH) * 2)
            await waiting.wait()
            client.fin()
            await edge.gateway.log.until("settled cancelled")
            assert len(edge.gateway.permits) == 1


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Requests that arrive together are served one after the other, bodies kept apart, also when they come in bits."""
    requests = [encode_request("POST", CHAT, b"body %d" % number * 3000, AUTH) for number in range(6)]
    with trio.fail_after(20):
        async with open_edge() as edge, open_client(edge.url) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, b"".join(requests))
                for number in range(6):
                    assert (await client.read_response()).body == b"body %d" % number * 3000
            for start in range(0, len(requests[0]), 700):
                await client.send(requests[0][start : start + 700])
            assert (await client.read_response()).body == b"body 0" * 3000


async def test_reading_ahead_is_bounded() -> None:
    """Behind an answer that takes its time no more than a bound is read; what was not read is served afterwards."""
    answer_now = trio.Event()
    asked = trio.Event()

    async def ask(gateway: EdgeGateway, permit: Permit) -> Answer:
        asked.set()
        await answer_now.wait()
        return gateway.whole(permit, b"%d" % len(permit.body))

    with trio.fail_after(20):
        async with open_edge(edge_config(body_idle_timeout_s=5)) as edge, open_client(edge.url) as client:
            edge.gateway.script = ask
            await client.request("POST", CHAT, b"x", AUTH)
            await asked.wait()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.request, "POST", CHAT, b"x" * 30_000_000, AUTH)
                await trio.sleep(0.3)  # no event says that a socket's buffers are full
                assert nursery.child_tasks, "30 MB were read ahead"
                answer_now.set()
                assert (await client.read_response()).body == b"1"
                assert (await client.read_response()).body == b"30000000"


@pytest.mark.parametrize("streamed", [True, False])
async def test_stalled_reader_is_cut(streamed: bool) -> None:
    """A caller that stops reading holds its request for write_stall_timeout_s and is then reset (T4)."""
    piece = b"x" * 1_000_000

    async def ask(gateway: EdgeGateway, permit: Permit) -> Answer:
        return gateway.whole(permit, piece * 30)

    with trio.fail_after(20):
        async with open_edge(edge_config(write_stall_timeout_s=0.5)) as edge:
            edge.gateway.script = streaming(*[Pulled(piece)] * 100) if streamed else ask
            async with open_client(edge.url, receive_buffer_bytes=4096) as client:
                await client.request("POST", CHAT, BODY, AUTH)
                if streamed:
                    await edge.gateway.log.until("settled cancelled")
                    assert edge.gateway.permits[0].outcome is not None
                    assert edge.gateway.permits[0].outcome.status is Status.CANCELLED
                else:
                    await trio.sleep(1.5)
                response = await client.read_response()
                assert response.cut == "RST"


async def test_slow_reader_is_not_cut() -> None:
    """A caller that reads slowly, but reads, gets everything, however long it takes."""
    body = b"x" * 6_000_000
    with trio.fail_after(20):
        async with open_edge(edge_config(write_stall_timeout_s=0.5)) as edge:

            async def ask(gateway: EdgeGateway, permit: Permit) -> Answer:
                return gateway.whole(permit, body)

            edge.gateway.script = ask
            async with open_client(edge.url, receive_buffer_bytes=65536) as client:
                await client.request("POST", CHAT, BODY, AUTH)
                await client.read_head()
                got = 0
                started_s = trio.current_time()
                while got < len(body):
                    got += len(await client.read_piece())
                    if trio.current_time() - started_s < 1.5:
                        await trio.sleep(0.01)
                assert got == len(body)


async def test_a_stream_outlives_the_frameworks_timers() -> None:
    """No timer of Quart's cuts a stream: all of them are off, and a stream with pauses arrives whole (T5, T11, T23)."""

    async def pause(pull: int) -> None:
        await trio.sleep(0.05)

    with trio.fail_after(20):
        async with open_edge(edge_config(keep_alive_timeout_s=0.2, head_timeout_s=0.2)) as edge:
            edge.gateway.script = streaming(*[Pulled(b"a")] * 20, Pulled(b"", b"end", last=True), wait=pause)
            response = await fetch(edge.url, "POST", CHAT, BODY, AUTH)
            assert (response.body, response.cut) == (b"a" * 20 + b"end", None)


async def test_held_bytes_wait_for_the_record() -> None:
    """A stream's end goes out after the request is settled and its record durable; the provider is closed last."""
    with trio.fail_after(10):
        async with open_edge() as edge:
            edge.gateway.script = streaming(Pulled(b"a"), Pulled(b"b", b"[held]", last=True))
            response = await fetch(edge.url, "POST", CHAT, BODY, AUTH)
            assert response.body == b"ab[held]"
            assert edge.gateway.log.entries == ["admitted", "settled success", "durable", "closed"]


async def test_a_cut_stream_has_no_final_chunk() -> None:
    """`abort` sends the held error event and then ends the connection within the chunked body."""
    with trio.fail_after(10):
        async with open_edge() as edge:
            edge.gateway.script = streaming(Pulled(b"a"), Pulled(b"", b"error event", last=True, abort=True))
            response = await fetch(edge.url, "POST", CHAT, BODY, AUTH)
            assert (response.body, response.cut) == (b"aerror event", "FIN")


async def test_a_cut_stream_resets_http_1_0() -> None:
    """HTTP/1.0 has no chunks: its callers learn of a cut from a reset alone."""
    with trio.fail_after(10):
        async with open_edge() as edge, open_client(edge.url) as client:
            edge.gateway.script = streaming(Pulled(b"a"), Pulled(b"", b"", last=True, abort=True))
            await client.send(encode_request("POST", CHAT, BODY, AUTH).replace(b"HTTP/1.1", b"HTTP/1.0"))
            await client.read_eof()
            assert client._how == "RST"


async def test_connections_are_bounded() -> None:
    """At max_connections the longest idle one makes room; when all are busy, the new one is turned away."""
    waiting = trio.Event()

    async def ask(gateway: EdgeGateway, permit: Permit) -> Answer:
        waiting.set()
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    with trio.fail_after(10):
        async with open_edge(edge_config(max_connections=2)) as edge:
            edge.gateway.script = ask
            async with open_client(edge.url) as busy, open_client(edge.url) as idle:
                await busy.request("POST", CHAT, BODY, AUTH)
                await waiting.wait()
                await idle.request("GET", "/livez")
                assert (await idle.read_response()).status == 200
                async with open_client(edge.url) as third:
                    assert await idle.read_eof() == b""
                    waiting = trio.Event()
                    await third.request("POST", CHAT, BODY, AUTH)
                    await waiting.wait()
                    async with open_client(edge.url) as fourth:
                        assert await fourth.read_eof() == b""


async def test_garbage_ends_one_connection_only() -> None:
    """Whatever bytes arrive, the server goes on; each connection is answered or closed."""
    garbage = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 100,
        b"GET\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"\xff" * 70000,
    ]
    with trio.fail_after(20):
        async with open_edge(edge_config(head_timeout_s=0.2)) as edge:
            for data in garbage:
                async with open_client(edge.url) as client:
                    await client.send(data)
                    await client.read_eof()
                    assert client.raw.startswith(b"HTTP/1.1 4")
            assert (await fetch(edge.url, "GET", "/livez")).status == 200


async def test_reset_amid_an_answer_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    """Callers that vanish leave nothing on stderr, and no tracebacks with data (T26)."""
    with trio.fail_after(10):
        async with open_edge() as edge:
            edge.gateway.script = streaming(*[Pulled(b"x" * 100_000)] * 1000)
            for _ in range(5):
                async with open_client(edge.url) as client:
                    await client.request("POST", CHAT, BODY, AUTH)
                    await client.read_head()
                    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await edge.gateway.log.until("settled cancelled")
                edge.gateway.log.entries.clear()
    assert capfd.readouterr().err == ""
