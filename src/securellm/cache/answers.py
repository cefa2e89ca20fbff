"""The cache of answers: who asks what was answered before gets that answer, and of many who ask at once one asks on.

`find` gives a `Hit`, or a `Lead`: then the caller is to ask the provider, and everybody else with the same key waits
for it, under its own deadline. A lead ends by `keep`, with the answer, or by `abandon`, because there is none; then
the next one that waits is given the lead. Nobody is to wait in a row for long: where an answer is not to be kept (too
large, filtered, a call of a tool, of another provider: `decline`), and after MOST_IN_ROW leads without an answer, all
who wait ask for themselves. Leaving a lead unended is a defect: end it in a `finally`.

A store that cannot be asked is a miss.
"""

import msgspec
import trio

from securellm.cache.gather import CannotGather, gather
from securellm.cache.keeping import is_kept
from securellm.cache.key import answer_key, tenant_of
from securellm.cache.replay import can_replay, replay
from securellm.cache.service import Cache, CacheStatistics
from securellm.chat import Caller, Endpoint, Headers, Usage
from securellm.config.tree import Cache as Settings

MAX_BODY_BYTES = 1024 * 1024  # of a request; reading and hashing a longer one costs more than it is likely to save
MOST_IN_ROW = 4  # leads that were abandoned, one after the other
OFF_LOOP_BYTES = 32 * 1024  # from here on a body is read in a thread


class Key(msgspec.Struct, frozen=True):
    """What an answer is kept under, and at which front door."""

    endpoint: Endpoint
    digest: bytes


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """What is kept: the whole answer, and what it took to get it."""

    body: bytes
    streams: bool  # it can be served as a stream, too
    provider: str
    model: str
    usage: Usage | None
    usage_source: str | None
    finish_reason: str | None
    cost_nusd: int | None


class Hit(msgspec.Struct, frozen=True):
    """An answer in the form that was asked for, and the entry it comes from: its cost is what was saved."""

    content_type: bytes
    body: bytes  # a whole body, or all frames of a stream
    entry: Entry


class AnswersStatistics(msgspec.Struct, frozen=True):
    """`followed` are hits that waited for somebody else's answer; `unkept` are answers that were not to be kept."""

    hits: int
    misses: int
    followed: int
    unkept: int
    leads: int  # under way
    store: CacheStatistics


class _Flight:
    """One question under way."""

    __slots__ = ("apart", "entry", "landed", "place")

    def __init__(self, place: int = 1) -> None:
        self.place = place  # in the row of leads
        self.landed = trio.Event()
        self.entry: Entry | None = None
        self.apart = False  # nobody need wait for another one


class Lead:
    """Leave to ask the provider, alone among those with the same key. Ended once; what follows changes nothing."""

    def __init__(self, answers: "Answers", key: Key, flight: _Flight) -> None:
        self._answers = answers
        self._key = key
        self._flight = flight

    def keep(
        self,
        answer: bytes,
        *,
        stream: bool,
        provider: str,
        model: str,
        usage: Usage | None,
        usage_source: str | None,
        finish_reason: str | None,
        cost_nusd: int | None,
    ) -> bool:
        """The complete answer as the caller was sent it: a body, or all frames of a stream; whether it is kept.

        Waits for nothing, raises nothing.
        """
        if self._flight.landed.is_set():
            return False
        whole = self._answers._whole(self._key.endpoint, answer, usage, stream=stream)
        if whole is None:
            self.decline()
            return False
        streams = stream or can_replay(self._key.endpoint, whole)
        entry = Entry(whole, streams, provider, model, usage, usage_source, finish_reason, cost_nusd)
        self._answers._land(self._key, self._flight, entry)
        return True

    def decline(self) -> None:
        """There is an answer, and it is not one to be kept: whoever waits for it asks."""
        self._answers._land(self._key, self._flight, None, apart=True)

    def abandon(self) -> None:
        """There is no answer: it failed, or whoever asked has gone."""
        self._answers._land(self._key, self._flight, None, apart=self._flight.place >= MOST_IN_ROW)


class Answers:
    """The answers of one process; with Redis as the store, of all that share it."""

    def __init__(self, settings: Settings, ttl_s: float, store: Cache) -> None:
        self._settings = settings
        self._ttl_s = ttl_s
        self._store = store
        self._flights: dict[Key, _Flight] = {}
        self._hits = 0
        self._misses = 0
        self._followed = 0
        self._unkept = 0

    async def key_of(
        self,
        endpoint: Endpoint,
        body: bytes,
        caller: Caller,
        *,
        provider: str,
        model: str,
        epoch: str,
        headers: Headers,
        headers_up: tuple[str, ...] = (),
    ) -> Key | None:
        """The key of a request that was let in; None where its answer is neither kept nor looked for."""
        if len(body) > MAX_BODY_BYTES:
            return None

        def find() -> bytes | None:
            return answer_key(
                endpoint,
                body,
                tenant=tenant_of(caller),
                provider=provider,
                model=model,
                epoch=epoch,
                headers=headers,
                headers_up=headers_up,
            )

        digest = await trio.to_thread.run_sync(find) if len(body) > OFF_LOOP_BYTES else find()
        return Key(endpoint, digest) if digest is not None else None

    async def find(self, key: Key, *, stream: bool, include_usage: bool) -> Hit | Lead:
        """The answer, or leave to ask for it. Waits for whoever asks the same already; cancel it at the deadline."""
        if (flight := self._flights.get(key)) is None:
            return await self._look(key, stream=stream, include_usage=include_usage)
        while True:
            await flight.landed.wait()
            if flight.entry is not None and (flight.entry.streams or not stream):
                self._followed += 1
                return self._hit(key, flight.entry, stream=stream, include_usage=include_usage)
            if flight.apart or flight.entry is not None:
                return self._lead(key, _Flight())
            if (following := self._flights.get(key)) is None:
                flight = self._flights[key] = _Flight(flight.place + 1)
                return self._lead(key, flight)
            flight = following

    def statistics(self) -> AnswersStatistics:
        """The figures now."""
        return AnswersStatistics(
            self._hits, self._misses, self._followed, self._unkept, len(self._flights), self._store.statistics()
        )

    def __repr__(self) -> str:
        return f"<Answers hits={self._hits} misses={self._misses} leads={len(self._flights)} {self._store!r}>"

    async def _look(self, key: Key, *, stream: bool, include_usage: bool) -> Hit | Lead:
        """Be the first to look; who comes meanwhile waits for what is found."""
        flight = self._flights[key] = _Flight()
        entry: Entry | None = None
        try:
            entry = _decoded(await self._store.get(key.digest))
        except BaseException:
            self._land(key, flight, None)
            raise
        if entry is None or (stream and not entry.streams):
            return self._lead(key, flight)
        self._land(key, flight, entry, known=True)
        return self._hit(key, entry, stream=stream, include_usage=include_usage)

    def _lead(self, key: Key, flight: _Flight) -> Lead:
        self._misses += 1
        return Lead(self, key, flight)

    def _hit(self, key: Key, entry: Entry, *, stream: bool, include_usage: bool) -> Hit:
        self._hits += 1
        if not stream:
            return Hit(b"application/json", entry.body, entry)
        frames = replay(key.endpoint, entry.body, include_usage=include_usage)
        return Hit(b"text/event-stream; charset=utf-8", frames, entry)

    def _whole(self, endpoint: Endpoint, answer: bytes, usage: Usage | None, *, stream: bool) -> bytes | None:
        """The answer as it is kept; None when it is not."""
        most_bytes = self._settings.max_entry_bytes
        if stream:
            most_bytes *= 16  # frames repeat themselves: each token has a chunk around it
        try:
            if len(answer) > most_bytes:
                raise CannotGather("it is too long")
            whole = gather(endpoint, answer, usage) if stream else answer
        except CannotGather:
            whole = b""
        if len(whole) > self._settings.max_entry_bytes or not is_kept(endpoint, whole, tools=self._settings.tools):
            self._unkept += 1
            return None
        return whole

    def _land(
        self, key: Key, flight: _Flight, entry: Entry | None, *, apart: bool = False, known: bool = False
    ) -> None:
        if flight.landed.is_set():
            return
        flight.entry, flight.apart = entry, apart
        flight.landed.set()
        if self._flights.get(key) is flight:
            del self._flights[key]
        if entry is not None and not known:
            self._store.set_nowait(key.digest, msgspec.msgpack.encode(entry), self._ttl_s)


def _decoded(kept: bytes | None) -> Entry | None:
    """An entry of another version, or a damaged one, is a miss."""
    if kept is None:
        return None
    try:
        return msgspec.msgpack.decode(kept, type=Entry)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
