"""What the soak's callers do, and what its provider says: good requests, and every way we know to be a nuisance."""

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from rig import doors, speech
from rig.doors import CHAT, KEY, MESSAGES, Door
from rig.fake_provider import Received
from rig.raw_client import BodyCut, RawClient, Response, encode_request, open_client
from rig.script import Script, answer, chunk, fin, flood, never, rst, sleep, stream, stream_head

BODY_AT_MOST_BYTES = 300_000  # the gateway's limit
STALL_S = 1.0  # after which the gateway gives up on a reader or a sender that does nothing
PATIENCE_S = 30.0  # no request takes longer, however busy the machine is
PROVIDERS = {"compat": speech.CHAT, "claude": speech.MESSAGES}
PADDING = 2_000
TINY_BUFFER_BYTES = 4096


def choose_script(received: Received) -> Script:
    """What the provider answers: the model's name says what is to go wrong."""
    asked = received.json()
    said = speech.MESSAGES if received.path.endswith("/messages") else speech.CHAT
    streamed = asked.get("stream") is True
    match asked["model"]:
        case "good" if streamed:
            assert said.events is not None
            head, *events = stream(said.events(("Hel", "lo, ", "it ", "is ", "me"), ()), said.kind)
            return [head, *(step for event in events for step in (event, sleep(0.005)))]
        case "good":
            return answer(200, said.whole("Hello " * 20, ()))
        case "failing":
            return answer(500, said.error(500))
        case "busy":
            return answer(429, said.error(429), {"retry-after": "1"})
        case "garbage":
            return answer(200, b"<html>no</html>", {"content-type": "text/html"})
        case "cut":
            return [stream_head(), chunk(speech.chat_chunk({"content": "half"})), fin()]
        case "reset":
            return [stream_head(), chunk(speech.chat_chunk({"content": "half"})), sleep(0.05), rst()]
        case "hanging":
            return [stream_head(), chunk(speech.chat_chunk({"content": "half"})), never()]
        case "silent":
            return [never()]
        case "flood":
            return [stream_head(), flood(speech.chat_chunk({"content": "x" * PADDING}), written=[0])]
        case other:
            return answer(404, {"error": {"message": f"no such model: {other}"}})


@dataclass
class Ledger:
    """What the callers saw."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)  # ids of good answers

    def note(self, kind: str, response: Response | None, good: bool) -> None:
        """Count an outcome; what is not as it must be is kept."""
        outcome = "gone" if response is None else f"{response.status}{', cut' if response.cut else ''}"
        self.outcomes[kind, outcome] += 1
        if not good and len(self.wrong) < 20:
            self.wrong.append(f"{kind}: {outcome} {b'' if response is None else response.body[-300:]!r}")
        if response is not None and response.status == 200 and not response.cut:
            name = response.header("x-request-id")
            if name is None or name in self.answered:
                self.wrong.append(f"{kind}: the answer's id is {name}")
            else:
                self.answered.add(name)


class Caller:
    """One task that asks again and again, in a random order that its seed gives."""

    def __init__(self, url: str, ledger: Ledger, seed: int) -> None:
        self._url = url
        self._ledger = ledger
        self._asked = ""  # for the report of what went wrong
        self._random = random.Random(seed)
        self._kinds: dict[Callable[[], Awaitable[None]], int] = {
            self.good: 40,
            self.cancelled: 25,
            self.failing: 12,
            self.broken: 8,
            self.slow_body: 3,
            self.stalled_body: 1,
            self.oversized: 4,
            self.refused: 5,
            self.stalled_reader: 2,
        }

    async def run(self, until_s: float) -> None:
        """Ask until then."""
        while trio.current_time() < until_s:
            (kind,) = self._random.choices([*self._kinds], [*self._kinds.values()])
            self._asked = ""
            with trio.move_on_after(PATIENCE_S) as scope:
                try:
                    await kind()
                except (OSError, BodyCut) as exc:
                    self._ledger.wrong.append(f"{kind.__name__}: {self._asked}: {exc!r}")
            if scope.cancelled_caught:
                self._ledger.wrong.append(f"{kind.__name__}: {self._asked}: nothing within {PATIENCE_S} s")

    async def good(self) -> None:
        """Some whole and streamed requests on one connection, at both doors, before both providers."""
        async with open_client(self._url) as client:
            for number in range(self._random.randint(1, 4)):
                door, streamed = self._random.choice((CHAT, MESSAGES)), self._random.random() < 0.5
                provider = self._random.choice([*PROVIDERS])
                self._asked = f"{number}, {door.name} of {provider}{', streamed' if streamed else ''}"
                response = await self._ask(client, door, provider, "good", streamed)
                ended = door.terminal in response.body if streamed else b"Hello" in response.body
                self._ledger.note("good", response, response.status == 200 and not response.cut and ended)

    async def cancelled(self) -> None:
        """A caller that goes away in some phase, politely or not."""
        phase = self._random.choice(("head", "body", "asked", "silent", "streaming", "end"))
        model = "silent" if phase == "silent" else "good"
        request = self._encode(self._random.choice((CHAT, MESSAGES)), "compat", model, self._random.random() < 0.7)
        head_bytes = request.index(b"\r\n\r\n")
        async with open_client(self._url) as client:
            if phase in ("head", "body"):
                bounds = (1, head_bytes) if phase == "head" else (head_bytes + 4, len(request) - 1)
                await client.send(request[: self._random.randint(*bounds)])
            else:
                await client.send(request)
            if phase == "silent":
                await trio.sleep(self._random.uniform(0, 0.3))
            if phase in ("streaming", "end"):
                await client.read_head()
                for _ in range(self._random.randint(1, 3) if phase == "streaming" else 5):
                    if not await client.read_piece():
                        break
            self._random.choice((client.rst, client.fin, client.half_close))()
        self._ledger.note(f"cancelled: {phase}", None, True)

    async def failing(self) -> None:
        """A provider that answers with an error, or with nothing that makes sense."""
        model = self._random.choice(("failing", "busy", "garbage"))
        async with open_client(self._url) as client:
            response = await self._ask(client, self._random.choice((CHAT, MESSAGES)), "compat", model, False)
        self._ledger.note(f"provider: {model}", response, response.status in (429, 500, 502, 503))

    async def broken(self) -> None:
        """A provider whose stream ends before its end: the caller is told so."""
        model = self._random.choice(("cut", "reset", "hanging"))
        async with open_client(self._url) as client:
            response = await self._ask(client, CHAT, "compat", model, True)
        told = response.status >= 500 or (b'"error"' in response.body and CHAT.terminal not in response.body)
        self._ledger.note(f"provider: {model}", response, told)

    async def slow_body(self) -> None:
        """A body that comes in pieces, and is complete in time."""
        request = self._encode(CHAT, "compat", "good", False)
        async with open_client(self._url) as client:
            for start in range(0, len(request), len(request) // 4 + 1):
                await client.send(request[start : start + len(request) // 4 + 1])
                await trio.sleep(STALL_S / 10)
            response = await client.read_response()
        self._ledger.note("slow body", response, response.status == 200)

    async def stalled_body(self) -> None:
        """A body that stops half-way."""
        request = self._encode(CHAT, "compat", "good", False)
        async with open_client(self._url) as client:
            await client.send(request[:-10])
            response = await client.read_response()
        self._ledger.note("stalled body", response, response.status == 408)

    async def oversized(self) -> None:
        """A body that is too large, said so or found so."""
        chunked = self._random.random() < 0.5
        body = b"x" * (BODY_AT_MOST_BYTES + 1)
        headers = CHAT.auth() | {"content-type": "application/json"}
        if chunked:
            head = encode_request("POST", CHAT.path, None, headers | {"transfer-encoding": "chunked"})
            request = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            request = encode_request("POST", CHAT.path, body, headers)
        async with open_client(self._url) as client:
            try:
                await client.send(request)
                response = await client.read_response()
            except (OSError, BodyCut):
                # The gateway need not read what it refuses; its answer may be lost with the connection.
                return self._ledger.note("oversized", None, True)
        self._ledger.note("oversized", response, response.status == 413)

    async def refused(self) -> None:
        """A wrong key, a body that is not JSON, a model that is not there."""
        what = self._random.choice(("key", "json", "model"))
        body = b"{" if what == "json" else CHAT.body("compat/good" if what == "key" else "nowhere/good")
        async with open_client(self._url) as client:
            await client.request("POST", CHAT.path, body, CHAT.auth("slb_wrong" if what == "key" else KEY))
            response = await client.read_response()
        expected = {"key": 401, "json": 400, "model": 404}
        self._ledger.note(f"refused: {what}", response, response.status == expected[what])

    async def stalled_reader(self) -> None:
        """A caller that does not read what it asked for: it is cut off."""
        async with open_client(self._url, receive_buffer_bytes=TINY_BUFFER_BYTES) as client:
            await client.send(self._encode(CHAT, "compat", "flood", True))
            head = await client.read_head()
            await trio.sleep(STALL_S * 2)
            try:
                while await client.read_piece():
                    pass
                how = None
            except BodyCut as cut:
                how = cut.how
        self._ledger.note("stalled reader", Response(head.status, head.headers, b"", how), how is not None)

    async def _ask(self, client: RawClient, door: Door, provider: str, model: str, streamed: bool) -> Response:
        await client.send(self._encode(door, provider, model, streamed))
        return await client.read_response()

    def _encode(self, door: Door, provider: str, model: str, streamed: bool) -> bytes:
        fields = {"messages": [{"role": "user", "content": doors.PROMPT + " x" * self._random.randint(0, PADDING)}]}
        body = door.body(f"{provider}/{model}", stream=streamed, max_tokens=100, **fields)
        return encode_request("POST", door.path, body, door.auth())
