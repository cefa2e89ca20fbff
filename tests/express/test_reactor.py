"""The reactor on real sockets: what it relays without a task, where it stops, and what it does when time passes."""

import gzip
import itertools
import math
import os
import random
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from rig.waiting import until_true
from securellm._fast import http1, sse
from securellm.errors import UpstreamInvalid
from securellm.express.bodies import EncodedBody, LengthBody, UnboundedBody

pytestmark = pytest.mark.compiled

HELD_BYTES = 256 * 1024  # what the relay may hold of one stream
HELD_OF_CALLER_BYTES = 16 * 1024


@asynccontextmanager
async def _reactor(*, as_task: bool = False) -> AsyncIterator[object]:
    from securellm._fast.reactor_c import Reactor  # without the extensions it cannot be imported

    reactor = Reactor(as_task=as_task)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reactor.run)
        yield reactor
        nursery.cancel_scope.cancel()


async def _pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Both ends of one TCP connection."""
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen()
        near = await trio.open_tcp_stream(*listener.getsockname())
        far, _ = await listener.accept()
    return near, trio.SocketStream(far)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _read(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.receive_some(size - len(data))
    return data


WAYS = pytest.mark.parametrize("as_task", [False, True], ids=["in-trios-place", "as-task"])


@WAYS
async def test_a_relay_needs_no_task_in_the_middle(as_task: bool):
    """Chunks go through while the task sleeps, and it wakes when `feed` says None; that read is not passed on."""
    with trio.fail_after(10):
        async with _reactor(as_task=as_task) as reactor:
            provider, near = await _pair()
            caller, far = await _pair()
            source, target = reactor.add(near.socket), reactor.add(far.socket, caller=True)
            fed: list[bytes] = []

            def feed(data: bytes, now_s: float) -> bytes | None:
                fed.append(data)
                return None if data == b"end" else data.upper()

            async with provider, caller, trio.open_nursery() as nursery:
                nursery.start_soon(source.relay, target, http1.ChunkedDecoder(request=False), feed)
                for word in (b"one", b"two"):
                    await provider.send_all(_chunk(word))
                    assert await _read(caller, 8) == _chunk(word.upper())
                await provider.send_all(_chunk(b"end"))
            assert fed == [b"one", b"two", b"end"]
            source.close()
            target.close()


class Counts:
    """What a PlainFeed counts in: the upstream, its meter and its permit in one."""

    idle_s, most_output_bytes = 1.0, math.inf
    idle_deadline_s = 0.0
    output_bytes = semantic_events = bytes_out = 0

    def __init__(self) -> None:
        self.meter = self.permit = self
        self.fed: list[bytes] = []
        self.scanner = sse.StreamScanner("openai")
        self.feed(b"data: {}\n\n", 0.0)
        self.fed.clear()

    def see(self, event: sse.SSEEvent) -> int:
        return 0

    def count(self, semantic_events: int, output_bytes: int, sequence_number: int) -> None:
        self.semantic_events += semantic_events
        self.output_bytes += output_bytes

    def feed(self, data: bytes, now_s: float) -> bytes | None:
        self.fed.append(data)
        relayed = self.scanner.feed(self, data)
        return relayed.data


def _event(text: bytes) -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % text


async def _relay_pieces(pieces: list[bytes], decoder, feed) -> tuple[list[bytes], bytes]:
    """What the caller reads for each piece that the provider sends, and what of the last was left unread."""
    read: list[bytes] = []
    with trio.fail_after(20):
        async with _reactor() as reactor:
            provider, near = await _pair()
            caller, far = await _pair()
            source, target = reactor.add(near.socket), reactor.add(far.socket, caller=True)
            async with provider, caller, trio.open_nursery() as nursery:
                nursery.start_soon(source.relay, target, decoder, feed)
                await trio.testing.wait_all_tasks_blocked()
                for piece in pieces:
                    due_bytes = source.received_bytes + len(piece)
                    await provider.send_all(piece)
                    await until_true(lambda due_bytes=due_bytes: source.received_bytes >= due_bytes)
                    await trio.testing.wait_all_tasks_blocked()
                    read.append(b"")
                    with suppress(BlockingIOError):
                        read[-1] = os.read(caller.socket.fileno(), 1_000_000)
                nursery.cancel_scope.cancel()
            unread = source.unread
            source.close()
            target.close()
    return read, unread


@pytest.mark.parametrize("seed", range(8))
async def test_a_chunk_is_what_one_read_held(seed: int):
    """However the provider frames its events and wherever its bytes are cut: what one read held becomes one chunk."""
    from securellm._fast.reactor_c import PlainFeed  # without the extensions it cannot be imported

    chance = random.Random(seed)
    stream = framed = b""
    for number in range(30):
        event = _event(b"%d " % number * chance.choice([1, 5, 500]))
        stream += event
        cut = chance.choice([len(event), len(event), 1, 40])
        for part in (event[:cut], event[cut:]):
            if part:
                size = chance.choice([b"%x", b"%X", b"%08x", b"%x;ext=1"]) % len(part)
                framed += size + b"\r\n" + part + b"\r\n"
    framed += b"0\r\ntrailer: x\r\n\r\n"
    places = sorted(chance.randrange(len(framed)) for _ in range(chance.choice([3, 20, 60])))
    pieces = [framed[a:b] for a, b in itertools.pairwise([0, *places, len(framed)]) if a < b]
    pieces[-1] += b"more"
    counts, twin = Counts(), Counts()
    decoder = http1.ChunkedDecoder(request=False)
    expected = []
    for piece in pieces:
        payload, _ = decoder.feed(piece)
        data = PlainFeed(twin.scanner, twin)(payload, 0.0) if payload else b""
        expected.append(_chunk(data) if data else b"")
    read, unread = await _relay_pieces(pieces, http1.ChunkedDecoder(request=False), PlainFeed(counts.scanner, counts))
    assert read == expected
    assert unread == b"more"
    assert counts.fed == twin.fed
    assert (counts.semantic_events, counts.output_bytes) == (twin.semantic_events, twin.output_bytes)


@pytest.mark.parametrize("feed_plainly", [False, True], ids=["feed", "plain"])
async def test_a_body_without_chunks_becomes_chunks(feed_plainly: bool):
    """A body with a length, or one that was encoded, is taken out by its own decoder, and passed on all the same."""
    from securellm._fast.reactor_c import PlainFeed  # without the extensions it cannot be imported

    events = [_event(b"a"), _event(b"b" * 40_000), _event(b"c")]
    counts = Counts()
    feed = PlainFeed(counts.scanner, counts) if feed_plainly else counts.feed
    body = LengthBody(sum(map(len, events)))
    read, unread = await _relay_pieces([*events[:2], events[2] + b"more"], body, feed)
    assert read == [_chunk(event) for event in events]
    assert unread == b"more"
    assert counts.fed == ([] if feed_plainly else events)


async def test_what_decompresses_to_much_is_one_chunk():
    """A read that becomes more than a read can hold is passed on whole."""
    much = bytes(range(256)) * 4096
    body = EncodedBody(UnboundedBody(), [b"gzip"])
    read, _ = await _relay_pieces([gzip.compress(much)], body, lambda data, now_s: data)
    assert read[0].startswith(b"%x\r\n" % len(much))
    assert read[0][8:] == much[: len(read[0]) - 8]


async def test_what_was_read_before_is_passed_on_in_parts():
    """A caller that asks late, so that much was read ahead, gets all of it, and what is behind the end stays unread."""
    pieces = [_chunk(b"%d," % number * 900) for number in range(40)]
    with trio.fail_after(20):
        async with _reactor() as reactor:
            provider, near = await _pair()
            caller, far = await _pair()
            source, target = reactor.add(near.socket), reactor.add(far.socket, caller=True)
            async with provider, caller:
                decoder = http1.ChunkedDecoder(request=False)
                source.give_back(b"".join(pieces) + b"0\r\n\r\nmore")
                assert len(source.unread) > 65_536
                await source.relay(target, decoder, lambda data, now_s: data)
                assert decoder.done
                assert source.unread == b"more"
                target.shutdown()
                got = b""
                while data := await caller.receive_some():
                    got += data
            again = http1.ChunkedDecoder(request=False)
            assert again.feed(got)[0] == b"".join(b"%d," % number * 900 for number in range(40))
            source.close()
            target.close()


async def test_a_slow_caller_stops_the_reading():
    """What the caller does not take is held up to a bound; then the provider feels it, and later gets on."""
    piece = _chunk(b"x" * 60_000)
    sent = 0

    async def flood(provider: trio.SocketStream) -> None:
        nonlocal sent
        with suppress(trio.ClosedResourceError):
            while True:
                await provider.send_all(piece)
                sent += len(piece)

    with trio.fail_after(20):
        async with _reactor() as reactor:
            provider, near = await _pair()
            caller, far = await _pair()
            source, target = reactor.add(near.socket), reactor.add(far.socket, caller=True)
            async with provider, caller, trio.open_nursery() as nursery:
                nursery.start_soon(source.relay, target, http1.ChunkedDecoder(request=False), lambda data, now_s: data)
                nursery.start_soon(flood, provider)
                before = -1
                while sent != before:
                    before = sent
                    await trio.sleep(0.2)
                assert 0 < target.queued_bytes + len(source.unread) <= HELD_BYTES
                got, more = 0, sent + 2_000_000
                while got < more:
                    got += len(await caller.receive_some())
                nursery.cancel_scope.cancel()
            source.close()
            target.close()


async def test_a_caller_that_takes_nothing_is_cut():
    """After `stall_s` without 64 KiB taken the connection is reset, and whoever serves it is told."""
    with trio.fail_after(10):
        async with _reactor() as reactor:
            caller, far = await _pair()
            told = trio.Event()
            target = reactor.add(far.socket, caller=True, stall_s=0.2)
            target.on_gone = told.set
            async with caller:
                target.write(b"x" * 20_000_000)
                started_s = trio.current_time()
                await told.wait()
                assert 0.1 < trio.current_time() - started_s < 2
                assert target.closed


@pytest.mark.parametrize("woken", [False, True])
async def test_what_a_caller_sends_waits_in_its_socket(woken: bool):
    """Until somebody takes it little is read, whoever was woken for it, and the reactor rests; then all of it comes."""
    sent = bytes(range(256)) * 4000
    with trio.fail_after(10):
        async with _reactor() as reactor:
            caller, far = await _pair()
            channel = reactor.add(far.socket, caller=True)
            async with caller, trio.open_nursery() as nursery:
                nursery.start_soon(caller.send_all, sent)
                if woken:
                    await channel.receive_ready()
                await trio.sleep(0.1)
                before = reactor.events
                await trio.sleep(0.2)
                assert reactor.events - before < 10
                assert 0 < len(channel.unread) <= HELD_OF_CALLER_BYTES
                got = b""
                while len(got) < len(sent):
                    await channel.receive_ready()
                    got += channel.take()
                assert got == sent
            channel.close()


async def test_what_is_written_begins_where_it_is_told():
    """The second goes out from that place on: at once, when it does not fit, and behind what is still queued."""
    large = bytes(range(256)) * 40_000
    with trio.fail_after(10):
        async with _reactor() as reactor:
            caller, far = await _pair()
            target = reactor.add(far.socket)
            async with caller:
                target.write(b"head", b"not this, that", 10)
                assert await _read(caller, 8) == b"headthat"
                target.write(large, b"not this, that", 10)
                target.write(b"head", large, 1000)
                assert target.queued_bytes
                expected = large + b"that" + b"head" + large[1000:]
                assert await _read(caller, len(expected)) == expected
                target.write(b"", large, len(large))
                target.write(b"x", large, 77)
                assert await _read(caller, len(large) - 76) == b"x" + large[77:]
                for place in (-1, len(large) + 1):
                    with pytest.raises(ValueError, match="place"):
                        target.write(b"", large, place)
            target.close()


async def test_whoever_leaves_late_takes_nobody_else_along():
    """A caller that was cut is left by its task a turn later: whoever has its socket's number by then is still read."""
    with trio.fail_after(10):
        async with _reactor() as reactor:
            reader, near = await _pair()
            caller, far = await _pair()
            cut = reactor.add(near.socket, caller=True, stall_s=0.2)
            gone = trio.Event()
            cut.on_gone = gone.set
            cut.write(b"x" * 20_000_000)
            await gone.wait()
            assert cut.closed
            with far.socket:
                os.dup2(far.socket.fileno(), cut.fd, inheritable=False)
            accepted = reactor.add(trio.socket.from_stdlib_socket(socket.socket(fileno=cut.fd)), caller=True)
            assert accepted.fd == cut.fd
            cut.detach()
            async with reader, caller:
                await caller.send_all(b"hello")
                await accepted.receive_ready()
                assert accepted.take() == b"hello"
            accepted.close()


@WAYS
async def test_deadlines_fire_in_their_order(as_task: bool):
    """Each at its time, also after one was moved later and another earlier."""
    fired: list[str] = []

    async def wait(name: str, channel) -> None:
        await channel.receive_ready()
        assert channel.expired
        fired.append(name)

    with trio.fail_after(10):
        async with _reactor(as_task=as_task) as reactor:
            pairs = [await _pair() for _ in range(4)]
            channels = [reactor.add(near.socket) for near, _ in pairs]
            now_s = reactor.now_s()
            assert abs(now_s - trio.current_time()) < 0.05
            for channel, after_s in zip(channels, (0.1, 0.5, 0.2, 0.3), strict=True):
                channel.deadline_s = now_s + after_s
            channels[0].deadline_s = now_s + 0.4
            channels[1].deadline_s = now_s + 0.05
            async with trio.open_nursery() as nursery:
                for name, channel in zip("abcd", channels, strict=True):
                    nursery.start_soon(wait, name, channel)
            assert fired == ["b", "c", "d", "a"]
            for channel, (_, far) in zip(channels, pairs, strict=True):
                channel.close()
                await far.aclose()


async def test_broken_framing_is_raised_by_the_relay():
    """A chunk that is none ends the relay with the decoder's error; nothing of it is passed on."""
    with trio.fail_after(10):
        async with _reactor() as reactor:
            provider, near = await _pair()
            caller, far = await _pair()
            source, target = reactor.add(near.socket), reactor.add(far.socket, caller=True)
            async with provider, caller:
                await provider.send_all(b"zz\r\n")
                with pytest.raises(UpstreamInvalid):
                    await source.relay(target, http1.ChunkedDecoder(request=False), lambda data, now_s: data)
            source.close()
            target.close()


@WAYS
async def test_a_defect_ends_whoever_runs_the_reactor(as_task: bool):
    """What `feed` raises is a defect: it comes out of `run`, and so ends the process, instead of being lost."""
    from securellm._fast.reactor_c import Reactor  # without the extensions it cannot be imported

    def feed(data: bytes, now_s: float) -> bytes | None:
        raise ZeroDivisionError

    reactor = Reactor(as_task=as_task)
    provider, near = await _pair()
    caller, far = await _pair()
    source, target = reactor.add(near.socket), reactor.add(far.socket, caller=True)

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reactor.run)
            nursery.start_soon(source.relay, target, http1.ChunkedDecoder(request=False), feed)
            await provider.send_all(_chunk(b"one"))

    with trio.fail_after(10):
        async with provider, caller:
            with pytest.raises(ExceptionGroup) as caught:
                await serve()
            assert caught.value.subgroup(ZeroDivisionError) is not None
    source.close()
    target.close()


async def test_trio_has_its_turn_while_the_reactor_waits():
    """Timers, threads, signals, sockets and idleness of Trio's are noticed as if it waited itself, beside a stream."""

    async def flow(provider: trio.SocketStream, caller: trio.SocketStream) -> None:
        while True:
            await provider.send_all(_chunk(b"x"))
            assert await _read(caller, 6) == _chunk(b"x")
            await trio.sleep(0.001)

    with trio.fail_after(20):
        async with _reactor() as reactor:
            for flows in (False, True):
                provider, near = await _pair()
                caller, far = await _pair()
                source, target = reactor.add(near.socket), reactor.add(far.socket, caller=True)
                async with provider, caller, trio.open_nursery() as nursery:
                    if flows:
                        decoder = http1.ChunkedDecoder(request=False)
                        nursery.start_soon(source.relay, target, decoder, lambda data, now_s: data)
                        nursery.start_soon(flow, provider, caller)
                    else:
                        await trio.testing.wait_all_tasks_blocked(0.01)
                    for wait_s in (0.0, 0.0002, 0.02, 0.1):
                        started_s = trio.current_time()
                        await trio.sleep(wait_s)
                        assert wait_s <= trio.current_time() - started_s < wait_s + 0.5
                    assert await trio.to_thread.run_sync(trio.from_thread.run_sync, trio.current_time) > started_s
                    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
                        await trio.to_thread.run_sync(os.kill, os.getpid(), signal.SIGUSR1)
                        assert await anext(signals) == signal.SIGUSR1
                    other, another = await _pair()
                    nursery.start_soon(other.send_all, b"hello")
                    assert await _read(another, 5) == b"hello"
                    nursery.cancel_scope.cancel()
                await other.aclose()
                await another.aclose()
                source.close()
                target.close()
        await trio.sleep(0.01)  # and without it


class Wakes:
    """Trio's way to end its own wait, counted."""

    def __init__(self, trios) -> None:
        self._trios = trios
        self.count = 0

    def wakeup_thread_and_signal_safe(self) -> None:
        self.count += 1
        self._trios.wakeup_thread_and_signal_safe()

    def drain(self) -> None:
        self._trios.drain()


async def test_a_task_is_woken_without_a_write_to_trio():
    """Trio's wait is not ended from outside when the reactor woke a task, and afterwards Trio has its own epoll."""
    io_manager = trio._core._run.GLOBAL_RUN_CONTEXT.runner.io_manager
    trios, wakeup = io_manager._epoll, io_manager._force_wakeup
    wakes = Wakes(wakeup)
    with trio.fail_after(10):
        async with _reactor() as reactor:
            await trio.testing.wait_all_tasks_blocked()
            assert io_manager._epoll is not trios
            caller, near = await _pair()
            channel = reactor.add(near.socket)
            async with caller:
                io_manager._force_wakeup = wakes
                try:
                    for _ in range(5):
                        os.write(caller.socket.fileno(), b"hello")
                        await channel.receive_ready()
                        assert channel.take() == b"hello"
                finally:
                    io_manager._force_wakeup = wakeup
            channel.close()
        assert io_manager._epoll is trios
    assert wakes.count == 0


async def test_a_defect_leaves_trio_as_it_was():
    """A reactor that ended by one has given its place back: Trio waits by its own epoll."""
    from securellm._fast.reactor_c import Reactor  # without the extensions it cannot be imported

    io_manager = trio._core._run.GLOBAL_RUN_CONTEXT.runner.io_manager
    trios = io_manager._epoll
    provider, near = await _pair()

    def gone() -> None:
        raise ZeroDivisionError

    with trio.fail_after(10):
        async with provider:
            reactor = Reactor()
            reactor.add(near.socket).on_gone = gone
            await provider.send_eof()
            with pytest.raises(ZeroDivisionError):
                await reactor.run()
        assert io_manager._epoll is trios
        await trio.lowlevel.wait_readable(near.socket)
    near.socket.close()


async def test_two_reactors_in_one_run():
    """Only one waits in Trio's place; the sockets of both are served, and the other's when that one has ended."""
    from securellm._fast.reactor_c import Reactor  # without the extensions it cannot be imported

    async def run(reactor: Reactor, ended: trio.Event, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            await reactor.run()
        ended.set()

    async def serve(reactor: Reactor) -> None:
        caller, near = await _pair()
        channel = reactor.add(near.socket)
        async with caller:
            await caller.send_all(b"hello")
            await channel.receive_ready()
            assert channel.take() == b"hello"
        channel.close()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            first, second, ended = Reactor(), Reactor(), trio.Event()
            first_scope = await nursery.start(run, first, ended)
            second_scope = await nursery.start(run, second, trio.Event())
            for reactor in (first, second, first):
                await serve(reactor)
            first_scope.cancel()
            await ended.wait()
            await serve(second)
            second_scope.cancel()


async def test_the_end_of_a_turn_is_told_before_the_waiting():
    """Instruments hear of the end of a turn at once, whether they came before the reactor or after it."""

    class Turns(trio.abc.Instrument):
        """Notes when it was called."""

        called_s = 0.0

        def before_io_wait(self, timeout: float) -> None:
            self.called_s = trio.current_time()

    before, after = Turns(), Turns()
    with trio.fail_after(10):
        trio.lowlevel.add_instrument(before)
        async with _reactor():
            await trio.testing.wait_all_tasks_blocked()
            trio.lowlevel.add_instrument(after)
            for _ in range(3):
                started_s = trio.current_time()
                await trio.sleep(0.5)
                for turns in (before, after):
                    assert 0 <= turns.called_s - started_s < 0.4
            trio.lowlevel.remove_instrument(after)
        trio.lowlevel.remove_instrument(before)
