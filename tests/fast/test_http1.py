"""HTTP/1.1 heads and chunked bodies: what is refused, what is understood, twin against twin and both against h11."""

import itertools
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rig import smuggling
from securellm._fast import http1_py as definition
from securellm.errors import BadRequest, HeadTooLarge, InternalError, InvalidTarget, SecureLLMError, UpstreamInvalid

TWIN = "http1"
MAX_HEAD_BYTES = 65_536
EXAMPLES = max(50, int(300 * float(os.environ.get("SECURELLM_TEST_SCALE", "1"))))
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n\r\n"

PIECES = [
    b"GET / HTTP/1.1\r\n", b"POST /v1/chat/completions HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n", b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 204\r\n", b"HTTP/1.0 304 Not Modified\r\n", b"HTTP/1.1 100 Continue\r\n", b"Host: a\r\n", b"\r\n",
    b"Content-Length: 5\r\n", b"Content-Length: 0", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: ",
    b"chunked", b"Connection: close\r\n", b"Connection: a, CLOSE ,b\r\n", b"Connection: keep-alive\r\n",
    b"Expect: 100-Continue\r\n", b"Upgrade: h2c\r\n", b"X-\xc3\xbc: \xc3\xbc\r\n", b"X: \xc3\xbc \t\r\n", b"X:\r\n",
    b"\r", b"\n", b" ", b"\t", b":", b"\0", b"\x7f", b",", b"5", b"HTTP/1.1", b"/", b"a",
]  # fmt: skip
SEEDS = [data for _, data in (smuggling.REQUESTS | smuggling.RESPONSES).values()]
crafted = st.lists(st.sampled_from(PIECES) | st.binary(max_size=2), max_size=14).map(b"".join)
mutated = st.builds(
    lambda seed, at, cut, new: seed[: at % len(seed)] + new + seed[at % len(seed) + cut :],
    st.sampled_from(SEEDS),
    st.integers(0, 10_000),
    st.integers(0, 2),
    st.sampled_from(PIECES) | st.binary(max_size=2),
)
heads = st.builds(lambda data, rest: data + rest, crafted | mutated, st.sampled_from([b"", b"\r\n", b"\r\n\r\n"]))
CHUNK_PIECES = [
    b"0", b"5", b"a", b"F", b"7fffffffffffffff", b"\r\n", b"\r", b"\n", b";x=y", b";", b" ", b"hello",
    b"5\r\nhello\r\n", b"1\r\nx\r\n", b"0\r\n\r\n", b"0\r\n", b"X: y\r\n", b"X", b":", b"\0", b"\xff",
]  # fmt: skip
bodies = st.lists(st.sampled_from(CHUNK_PIECES), max_size=14).map(b"".join)
cuts = st.lists(st.integers(0, 300), max_size=10)


def _parsed(twin: ModuleType, data: bytes, *, response: bool, asked_head: bool = False) -> Any:
    """What a head is taken for: (head, its end), None, or the refusal."""
    try:
        if response:
            return twin.parse_response(data, 0, MAX_HEAD_BYTES, asked_head)
        return twin.parse_request(data, 0, MAX_HEAD_BYTES)
    except SecureLLMError as error:
        return type(error), error.message


def _decoded(twin: ModuleType, pieces: list[bytes], *, request: bool = True) -> list[Any]:
    """Everything that can be seen of a decoder while it is fed."""
    decoder = twin.ChunkedDecoder(request=request)
    seen: list[Any] = []
    for piece in pieces:
        try:
            seen.append((decoder.feed(piece), decoder.done, repr(decoder)))
        except SecureLLMError as error:
            return [*seen, (type(error), error.message)]
        if decoder.done:
            break
    return seen


def _cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


# Refusals.


@pytest.mark.parametrize(("reason", "data"), smuggling.REQUESTS.values(), ids=smuggling.REQUESTS.keys())
def test_ambiguous_requests(twin: ModuleType, reason: int, data: bytes) -> None:
    """Every known trick is refused, for its own reason, and no later than when the head is complete."""
    fault = definition.request_fault(reason, MAX_HEAD_BYTES)
    for end in range(len(data) + 1):
        result = _parsed(twin, data[:end], response=False)
        if result is not None:
            break
    assert result == (type(fault), fault.message)
    assert _parsed(twin, data, response=False) == result


@pytest.mark.parametrize(("reason", "data"), smuggling.RESPONSES.values(), ids=smuggling.RESPONSES.keys())
def test_ambiguous_answers(twin: ModuleType, reason: int, data: bytes) -> None:
    """A provider's answer is taken as strictly, and is the provider's fault."""
    fault = definition.response_fault(reason)
    assert _parsed(twin, data, response=True) == (UpstreamInvalid, fault.message)


@pytest.mark.parametrize(("reason", "data"), smuggling.BODIES.values(), ids=smuggling.BODIES.keys())
@pytest.mark.parametrize("size", [1, 10_000])
def test_ambiguous_chunks(twin: ModuleType, reason: int, data: bytes, size: int) -> None:
    """Chunks are taken strictly; whose fault it is depends on whose body it is."""
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert _decoded(twin, pieces, request=True)[-1] == (BadRequest, definition.request_fault(reason, 0).message)
    assert _decoded(twin, pieces, request=False)[-1] == (UpstreamInvalid, definition.response_fault(reason).message)


def test_every_reason_has_its_trick() -> None:
    """Each reason that exists is reached: by a trick of the collection, or by size."""
    reached = {
        reason
        for tricks in (smuggling.REQUESTS, smuggling.RESPONSES, smuggling.BODIES)
        for reason, _ in tricks.values()
    }
    assert reached == set(definition.REASONS) - {definition.TOO_LARGE, definition.TOO_MANY_FIELDS}


def test_big_heads(twin: ModuleType) -> None:
    """A head may have as many bytes as allowed and no more; without an end it is refused at the same size."""
    assert twin.parse_request(GET, 0, len(GET)) is not None
    for data in (GET, GET[:-1], b"G" * 100):
        with pytest.raises(HeadTooLarge, match="over 26 bytes"):
            twin.parse_request(data, 0, len(GET) - 1)
    assert twin.parse_request(GET[:-2], 0, len(GET) - 1) is None
    with pytest.raises(UpstreamInvalid, match="over the bytes"):
        twin.parse_response(OK, 0, len(OK) - 1, False)


def test_many_fields(twin: ModuleType) -> None:
    """256 fields are taken, 257 are not, however small they are; a bad one among the first comes first."""
    fields = b"".join(b"X%d: %d\r\n" % (number, number) for number in range(255))
    head, _ = twin.parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n", 0, MAX_HEAD_BYTES)
    assert head.headers[-1] == (b"x254", b"254")
    assert len(head.headers) == 256
    with pytest.raises(HeadTooLarge, match="256 fields"):
        twin.parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"Y: 1\r\n\r\n", 0, MAX_HEAD_BYTES)
    with pytest.raises(BadRequest, match="control"):
        twin.parse_request(b"GET / HTTP/1.1\r\nHost: \0\r\n" + fields + b"Y: 1\r\n\r\n", 0, MAX_HEAD_BYTES)


def test_targets_that_are_no_paths(twin: ModuleType) -> None:
    """They are told as the router tells other spellings: invalid_target."""
    with pytest.raises(InvalidTarget):
        twin.parse_request(b"GET http://evil/ HTTP/1.1\r\nHost: a\r\n\r\n", 0, MAX_HEAD_BYTES)


# What is understood.


def test_a_request(twin: ModuleType) -> None:
    """Method, target, fields in lower case and in order, framing; what follows the head is left alone."""
    data = (
        b"before"
        b"POST /v1/messages?beta=true HTTP/1.1\r\nHOST:  a:8080 \t\r\nX-Api-Key: k\r\nx-a:\r\nX-A: \xc3\xbc, b\r\n"
        b"Content-Length: 12\r\nExpect: 100-continue\r\n\r\nGET / HTTP/1.1\r\n"
    )
    for buffer in (data, bytearray(data), memoryview(data)):
        head, end = twin.parse_request(buffer, 6, MAX_HEAD_BYTES)
        assert head == definition.RequestHead(
            method=b"POST",
            target=b"/v1/messages?beta=true",
            minor=1,
            headers=[
                (b"host", b"a:8080"),
                (b"x-api-key", b"k"),
                (b"x-a", b""),
                (b"x-a", b"\xc3\xbc, b"),
                (b"content-length", b"12"),
                (b"expect", b"100-continue"),
            ],
            body_bytes=12,
            chunked=False,
            keep_alive=True,
            expect_continue=True,
            upgrade=False,
        )
        assert data[end:] == b"GET / HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (b"", {"body_bytes": 0, "chunked": False, "keep_alive": True, "upgrade": False}),
        (b"Content-Length: 0\r\n", {"body_bytes": 0}),
        (b"Content-Length: 9223372036854775807\r\n", {"body_bytes": 2**63 - 1}),
        (b"Transfer-Encoding: Chunked\r\n", {"body_bytes": None, "chunked": True}),
        (b"Connection: close\r\n", {"keep_alive": False}),
        (b"Connection: x\r\nConnection: , Close\r\n", {"keep_alive": False}),
        (b"Connection: closed, keep-alive\r\n", {"keep_alive": True}),
        (b"Expect: 200-ok\r\n", {"expect_continue": False}),
        (b"Upgrade: websocket\r\nConnection: Upgrade\r\n", {"upgrade": True, "keep_alive": True}),
    ],
)
def test_framing_of_requests(twin: ModuleType, fields: bytes, expected: dict[str, Any]) -> None:
    """Length, chunks, closing, expectations."""
    head, _ = twin.parse_request(b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n", 0, MAX_HEAD_BYTES)
    assert {name: getattr(head, name) for name in expected} == expected


def test_http_1_0(twin: ModuleType) -> None:
    """HTTP/1.0 needs no Host, closes after its answer whatever it says, and waits for nothing."""
    data = b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    head, _ = twin.parse_request(data, 0, MAX_HEAD_BYTES)
    assert (head.minor, head.keep_alive, head.expect_continue, head.body_bytes) == (0, False, False, 2)


@pytest.mark.parametrize(
    ("head", "asked_head", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", False, (200, 5, False, True)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", False, (200, None, True, True)),
        (b"HTTP/1.1 200 OK\r\n\r\n", False, (200, None, False, False)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n", False, (200, 5, False, False)),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n", False, (200, 5, False, False)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", True, (200, 0, False, True)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", True, (200, 0, False, True)),
        (b"HTTP/1.1 304\r\nContent-Length: 5\r\n\r\n", False, (304, 0, False, True)),
        (b"HTTP/1.1 204 \r\n\r\n", False, (204, 0, False, True)),
        (b"HTTP/1.1 204 \r\nContent-Length: 0\r\n\r\n", False, (204, 0, False, True)),
        (b"HTTP/1.1 204 \r\nContent-Length: 5\r\n\r\n", False, (204, 0, False, False)),
        (b"HTTP/1.1 204 \r\nTransfer-Encoding: chunked\r\n\r\n", False, (204, 0, False, False)),
        (b"HTTP/1.1 100 Continue\r\n\r\n", False, (100, 0, False, True)),
        (b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n", False, (103, 0, False, True)),
        (b"HTTP/1.1 529 \xc3\xbcberlastet\r\nContent-Length: 0\r\n\r\n", False, (529, 0, False, True)),
    ],
)
def test_framing_of_answers(
    twin: ModuleType, head: bytes, asked_head: bool, expected: tuple[int, int | None, bool, bool]
) -> None:
    """Status, method and fields decide how long the body is, and whether the connection can be used again."""
    parsed, end = twin.parse_response(head + b"rest", 0, MAX_HEAD_BYTES, asked_head)
    assert (parsed.status, parsed.body_bytes, parsed.chunked, parsed.keep_alive) == expected
    assert end == len(head)


def test_a_chunked_body(twin: ModuleType) -> None:
    """Chunks are joined; extensions and trailers are thrown away; what follows the end is left alone."""
    data = b'5;x=y\r\nhello\r\n0001;"a b"\r\n!\r\n00\r\nX-Trailer: a b\r\nY:\r\n\r\nGET / HTTP/1.1\r\n'
    decoder = twin.ChunkedDecoder(request=True)
    assert decoder.feed(b"skipped" + data, 7) == (b"hello!", 7 + data.index(b"GET"))
    assert decoder.done
    assert decoder.feed(b"more") == (b"", 0)


def test_encoded_heads_and_chunks(twin: ModuleType) -> None:
    """Heads go out as they are given and come in the same; an empty chunk is never made, because it is the last."""
    fields = [(b"host", b"a"), (b"x-a", b"\xc3\xbc, b"), (b"x-b", b""), (b"content-length", b"2")]
    request, _ = twin.parse_request(twin.encode_request(b"POST", b"/v1/x?y", fields), 0, MAX_HEAD_BYTES)
    assert (request.method, request.target, request.headers) == (b"POST", b"/v1/x?y", fields)
    answer, _ = twin.parse_response(twin.encode_response(529, fields), 0, MAX_HEAD_BYTES, False)
    assert (answer.status, answer.headers) == (529, fields)
    assert twin.encode_response(200, []) == b"HTTP/1.1 200 \r\n\r\n"
    assert twin.encode_chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert twin.encode_chunk(b"") == b""
    body = b"".join(map(twin.encode_chunk, [b"a", b"", b"b" * 70_000])) + twin.LAST_CHUNK
    assert twin.ChunkedDecoder(request=True).feed(body)[0] == b"a" + b"b" * 70_000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x", b"a\r\nY: b"),
        (b"x", b"a\nb"),
        (b"x", b"a\rb"),
        (b"x", b"a\0"),
        (b"x", b"\x7f"),
        (b"x: y\r\nz", b""),
        (b"x y", b""),
        (b"", b"a"),
    ],
)
def test_injected_fields(twin: ModuleType, name: bytes, value: bytes) -> None:
    """No field that is sent can break out of its line."""
    for encode in (
        lambda fields: twin.encode_response(200, fields),
        lambda fields: twin.encode_request(b"GET", b"/", fields),
    ):
        with pytest.raises(InternalError):
            encode([(b"ok", b"ok"), (name, value)])


@pytest.mark.parametrize(
    ("method", "target"),
    [(b"", b"/"), (b"GET", b""), (b"GET /", b"/"), (b"GET", b"/ HTTP/1.1\r\nX: y"), (b"G\0", b"/")],
)
def test_injected_request_lines(twin: ModuleType, method: bytes, target: bytes) -> None:
    """Neither can a method or a target."""
    with pytest.raises(InternalError):
        twin.encode_request(method, target, [])


@pytest.mark.parametrize("status", [-1, 0, 99, 1000])
def test_injected_statuses(twin: ModuleType, status: int) -> None:
    """Nor a status."""
    with pytest.raises(InternalError):
        twin.encode_response(status, [])


@pytest.mark.compiled
@pytest.mark.parametrize("field", [(None, b"a"), (b"a", None), ("a", b"a")])
def test_fields_that_are_not_bytes(compiled: ModuleType, field: tuple[Any, Any]) -> None:
    """What is not bytes is refused, never read."""
    for wrong in ([field], None):
        with pytest.raises(TypeError):
            compiled.encode_response(200, wrong)
        with pytest.raises(TypeError):
            compiled.encode_request(b"GET", b"/", wrong)
    for method, target in ((None, b"/"), (b"GET", None)):
        with pytest.raises(TypeError):
            compiled.encode_request(method, target, [])


# Twin against twin.


@pytest.mark.compiled
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=heads, asked_head=st.booleans())
@example(data=b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 300 + b"\r\n", asked_head=False)
@example(data=b"HTTP/1.1 \r\n\r\n", asked_head=False)
@example(data=b"HTTP/1.1 200\r\n\r\n", asked_head=True)
def test_twins_parse_alike(pure: ModuleType, compiled: ModuleType, data: bytes, asked_head: bool) -> None:
    """For any bytes the twins find the same head, the same lack of one, or the same fault."""
    assert _parsed(compiled, data, response=False) == _parsed(pure, data, response=False)
    for asked in (asked_head, not asked_head):
        assert _parsed(compiled, data, response=True, asked_head=asked) == _parsed(
            pure, data, response=True, asked_head=asked
        )


REPEATED = (
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\nX: y\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH:\t%b \r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n",
    b"POST / HTTP/1.0\r\nContent-Length: %b\r\n\r\n",
)
repeated = st.builds(
    lambda form, value, rest: form % value + rest,
    st.sampled_from(REPEATED),
    st.sampled_from([b"0", b"5", b"10", b"05", b"", b"5 5", b"-1", b"9223372036854775807", b"9223372036854775808"]),
    st.sampled_from([b"", b"body", b"5\r\n", REPEATED[0] % b"7"]),
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    following=st.lists(repeated | heads, min_size=1, max_size=5),
    cut=st.integers(0, 120),
    max_head_bytes=st.sampled_from([MAX_HEAD_BYTES, 60]),
)
@example(following=[REPEATED[0] % b"5", REPEATED[0] % b"5"], cut=120, max_head_bytes=MAX_HEAD_BYTES)
@example(following=[REPEATED[0] % b"9", REPEATED[0] % b"10", REPEATED[0] % b"9"], cut=120, max_head_bytes=60)
def test_a_head_that_repeats_the_last_is_read_alike(
    twin: ModuleType, following: list[bytes], cut: int, max_head_bytes: int
) -> None:
    """What was read before on a connection changes nothing: each head is what it is by itself, cut or whole."""
    reader = twin.RequestHeads()
    fields = None
    for data in following:
        for piece in (data, data[:cut], data):
            try:
                expected = definition.parse_request(piece, 0, max_head_bytes)
            except SecureLLMError as error:
                with pytest.raises(type(error), match=re.escape(error.message)):
                    reader.parse(piece, max_head_bytes)
            else:
                assert reader.parse(piece, max_head_bytes) == expected
                if expected is not None:
                    assert reader.raw == piece[: expected[1]]
                    before, fields = fields, [one for one in expected[0].headers if one[0] != b"content-length"]
                    assert not reader.repeats or fields == before


@pytest.mark.compiled
def test_which_heads_repeat(compiled: ModuleType) -> None:
    """One that has another Content-Length repeats the last, one with another field does not, nor does the first."""
    reader = compiled.RequestHeads()
    found = []
    for head in (REPEATED[0] % b"9", REPEATED[0] % b"9", REPEATED[0] % b"10", REPEATED[2] % b"9", REPEATED[2] % b"8"):
        reader.parse(head, MAX_HEAD_BYTES)
        found.append(reader.repeats)
    assert found == [False, True, True, False, False]


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=heads, response=st.booleans())
def test_cutting_changes_nothing(twin: ModuleType, data: bytes, response: bool) -> None:
    """However little of it is there: a head is incomplete until it is what it is with everything there."""
    final = _parsed(twin, data, response=response)
    results = [_parsed(twin, data[:end], response=response) for end in range(len(data) + 1)]
    first = next((result for result in results if result is not None), None)
    assert first == final
    assert [result for result in results if result is not None and result != final] == []


@pytest.mark.compiled
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=bodies | st.sampled_from([data for _, data in smuggling.BODIES.values()]), places=cuts)
def test_twins_decode_alike(pure: ModuleType, compiled: ModuleType, data: bytes, places: list[int]) -> None:
    """For any bytes and any cutting the twins give the same body after the same piece, and the same fault."""
    pieces = _cut(data, places)
    assert _decoded(compiled, pieces) == _decoded(pure, pieces)


@pytest.mark.compiled
@settings(max_examples=EXAMPLES, deadline=None)
@given(
    fields=st.lists(st.tuples(st.binary(max_size=4), st.binary(max_size=4)), max_size=3),
    method=st.binary(max_size=4),
    status=st.integers(-(2**31), 2**31 - 1),
)
def test_twins_encode_alike(
    pure: ModuleType, compiled: ModuleType, fields: list[tuple[bytes, bytes]], method: bytes, status: int
) -> None:
    """For any fields the twins write the same head, or refuse."""

    def encoded(twin: ModuleType, name: str, *arguments: Any) -> Any:
        try:
            return getattr(twin, name)(*arguments, fields)
        except InternalError as error:
            return error.message

    for name, arguments in (("encode_request", (method, b"/")), ("encode_response", (status,))):
        assert encoded(compiled, name, *arguments) == encoded(pure, name, *arguments)


@pytest.mark.compiled
def test_the_compiled_numbers_are_the_definition_s(pure: ModuleType) -> None:
    """The reasons and bounds that the .pxd repeats have the definition's numbers."""
    assert pure.__file__ is not None
    text = Path(pure.__file__).with_name("http1_c.pxd").read_text()
    repeated = {name: int(value) for name, value in re.findall(r"^ +([A-Z0-9_]+) = (\d+)$", text, re.MULTILINE)}
    del repeated["READ_SIZE"]
    assert repeated == {name: getattr(pure, name) for name in repeated}
    assert set(pure.REASONS) <= set(repeated.values())


# Both against h11: what is accepted here, h11 accepts with the same meaning.


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=heads)
@example(data=GET)
@example(data=b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX:\t\xff \t\r\n\r\n")
@example(data=b"POST / HTTP/1.1\r\nHost:\r\nContent-Length: 9\r\nConnection: close\r\n\r\n")
def test_h11_reads_requests_alike(twin: ModuleType, data: bytes) -> None:
    """No request is accepted that h11 refuses or understands otherwise."""
    result = _parsed(twin, data, response=False)
    if result is None or not isinstance(result[0], definition.RequestHead):
        return
    head, end = result
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    connection.receive_data(data[:end])
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.target, event.http_version) == (head.method, head.target, b"1.%d" % head.minor)
    assert list(event.headers) == head.headers
    assert connection.they_are_waiting_for_100_continue == head.expect_continue
    nothing = head.body_bytes == 0
    assert isinstance(connection.next_event(), h11.EndOfMessage) == nothing


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=heads, asked_head=st.booleans())
@example(data=OK, asked_head=False)
@example(data=b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", asked_head=False)
@example(data=b"HTTP/1.1 200\r\nContent-Length: 3\r\n\r\n", asked_head=True)
def test_h11_reads_answers_alike(twin: ModuleType, data: bytes, asked_head: bool) -> None:
    """No answer is accepted that h11 refuses or frames otherwise."""
    result = _parsed(twin, data, response=True, asked_head=asked_head)
    if result is None or not isinstance(result[0], definition.ResponseHead):
        return
    head, end = result
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    connection.send(h11.Request(method="HEAD" if asked_head else "GET", target="/", headers=[("host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data[:end])
    event = connection.next_event()
    assert isinstance(event, h11.Response | h11.InformationalResponse)
    assert (event.status_code, event.http_version) == (head.status, b"1.%d" % head.minor)
    assert list(event.headers) == head.headers
    if head.status >= 200:
        assert isinstance(connection.next_event(), h11.EndOfMessage) == (head.body_bytes == 0)
        if head.keep_alive:
            assert connection.their_state is not h11.MUST_CLOSE


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=bodies)
@example(data=b"5;x=y\r\nhello\r\n0\r\nX: y\r\n\r\n")
def test_h11_decodes_chunks_alike(twin: ModuleType, data: bytes) -> None:
    """No body is accepted that h11 refuses or reads otherwise."""
    decoder = twin.ChunkedDecoder(request=True)
    try:
        body, end = decoder.feed(data)
    except BadRequest:
        return
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data[:end])
    assert isinstance(connection.next_event(), h11.Request)
    read = b""
    while isinstance(event := connection.next_event(), h11.Data):
        read += bytes(event.data)
    assert read == body
    assert isinstance(event, h11.EndOfMessage) == decoder.done
