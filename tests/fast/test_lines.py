"""Lines of the audit log: the compiled twin writes what msgspec makes of the record in audit/entries, byte for byte."""

from collections import deque
from types import ModuleType
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from securellm.audit.entries import AttemptRecord, Hashes, closing_record, intent_record
from securellm.audit.record import GENESIS, Record, hash_line
from securellm.chat import Attempt, Call, Caller, Endpoint, KeyId, Outcome, RequestId, Settlement, Status, Usage

TWIN = "lines"

MOMENTS_US = st.integers(0, 253_402_300_799_999_999) | st.sampled_from([0, 951_782_400_000_000, 4_107_542_400_000_000])


class Values(NamedTuple):
    """Where the facts of a settlement are taken from."""

    text: st.SearchStrategy[str]
    number: st.SearchStrategy[int]
    tokens: st.SearchStrategy[int]
    milliseconds: st.SearchStrategy[float]
    dropped: st.SearchStrategy[tuple[str, ...]]


USUAL_TEXT = st.text(st.characters(codec="ascii"), max_size=20) | st.sampled_from(
    ["", '"', "\\", "\n\x00\x1f\x7f", "\u00e9\u2028\U0001f600", "m" * 511 + '"', "x" * 513, "\u00fc" * 99]
)
USUAL_VALUES = Values(
    text=USUAL_TEXT,
    number=st.integers(-5, 2**53) | st.sampled_from([0, 1, 157_000, 1_000_000_000, 123_456_789_012, -(2**53)]),
    tokens=st.integers(0, 3) | st.integers(0, 2**49),
    milliseconds=st.floats(0, 1e6)
    | st.integers(0, 10**7).map(lambda us: us / 1000)
    | st.sampled_from([0.0, -0.0, 0.0005, 0.0015, 0.0025, -1.5]),
    dropped=st.just(()),
)
ALL_VALUES = Values(
    text=USUAL_TEXT | st.text(max_size=8) | st.sampled_from(["a\ud800b", "\\" * 9000]),
    number=USUAL_VALUES.number | st.sampled_from([2**53 + 1, 2**63, -(2**63), 2**64, 2**70]),
    tokens=USUAL_VALUES.tokens | st.sampled_from([-1, 2**50, 2**53, 2**64]),
    milliseconds=USUAL_VALUES.milliseconds | st.sampled_from([1e15, 1e300, float("inf"), float("nan"), 7, True]),
    dropped=st.lists(USUAL_TEXT, max_size=2).map(tuple) | st.just(("name",) * 70),
)


def _callers(values: Values) -> st.SearchStrategy[Caller]:
    return st.builds(Caller, st.none() | values.text.map(KeyId), st.none() | values.text)


def _hashes(values: Values) -> st.SearchStrategy[Hashes]:
    return st.just(Hashes()) | st.builds(Hashes, *[st.none() | values.text] * 5)


def _settlements(values: Values) -> st.SearchStrategy[Settlement]:
    text, number, milliseconds = values.text, values.number, values.milliseconds
    maybe_text, maybe_number = st.none() | text, st.none() | number
    usages = st.builds(Usage, *[values.tokens] * 9)
    skipped = st.none() | st.just("circuit_open")
    attempts = st.builds(
        Attempt, number, text, text, maybe_number, maybe_text, milliseconds, st.none() | usages, maybe_text, skipped
    )
    return st.builds(
        Settlement,
        request_id=text.map(RequestId),
        client_request_id=maybe_text,
        endpoint=st.sampled_from(Endpoint),
        caller=st.none() | _callers(values),
        client_ip=text,
        requested_model=maybe_text,
        provider=maybe_text,
        model=maybe_text,
        stream=st.booleans(),
        outcome=st.builds(Outcome, st.sampled_from(Status), maybe_number, maybe_text, maybe_text),
        attempts=st.lists(attempts, max_size=3).map(tuple),
        usage=st.none() | usages,
        usage_source=maybe_text,
        finish_reason=maybe_text,
        first_token_ms=st.none() | milliseconds,
        duration_ms=milliseconds,
        bytes_in=number,
        bytes_out=number,
        dropped=values.dropped,
        upstream_request_id=maybe_text,
        context_truncated=st.booleans(),
        config_epoch=text,
        cost_nusd=maybe_number,
        cache=st.sampled_from(["off", "miss", "hit"]),
        saved_nusd=maybe_number,
        overrun_nusd=maybe_number,
    )


HEADERS = st.lists(
    st.tuples(st.sampled_from([b"host", b"x-request-id", b"x-request-ie"]), st.binary(max_size=9)), max_size=4
)

USUAL = Settlement(
    request_id=RequestId("01a20472-70ff-75b8-94f0-ae35e029208b"),
    client_request_id="theirs",
    endpoint=Endpoint.CHAT,
    caller=Caller(KeyId("3m5776vs"), "alice"),
    client_ip="127.0.0.1",
    requested_model="vllm/gpt-x",
    provider="vllm",
    model="gpt-x",
    stream=True,
    outcome=Outcome(Status.FAILED, 502, "upstream_error", "it failed"),
    attempts=(Attempt(1, "vllm", "gpt-x", 502, "upstream_error", 1.5, Usage(3), "theirs"), Attempt(2, "b", "c")),
    usage=Usage(1, 2, 3, 4, 5, 6, 7, 8, 9),
    usage_source="reported",
    finish_reason="stop",
    first_token_ms=0.25,
    duration_ms=12.345678,
    bytes_in=1,
    bytes_out=2,
    dropped=(),
    upstream_request_id="req_1",
    context_truncated=True,
    config_epoch="e",
    cost_nusd=157_000,
    cache="miss",
    saved_nusd=1,
    overrun_nusd=2,
)
HASHED = Hashes("a" * 64, "b" * 64, "full", "c" * 64, "d" * 64)
MOMENT_US = 1_795_345_445_123_456


def _made(function: Any, *given: Any) -> Any:
    """What it returns, or what it raises."""
    try:
        return function(*given)
    except Exception as error:
        return type(error)


@pytest.mark.compiled
@given(
    settlement=_settlements(ALL_VALUES),
    hashes=_hashes(ALL_VALUES),
    now_us=MOMENTS_US | st.sampled_from([-1, 2**63]),
    costs=st.lists(st.none() | ALL_VALUES.number, min_size=3, max_size=3),
)
@example(settlement=USUAL, hashes=HASHED, now_us=MOMENT_US, costs=[157_000, None, None])
def test_an_outcome_is_the_same_line(
    pure: ModuleType,
    compiled: ModuleType,
    settlement: Settlement,
    hashes: Hashes,
    now_us: int,
    costs: list[int | None],
) -> None:
    """Whatever stands in the settlement, and however far a text, a number or a moment is from the usual."""
    facts = settlement, tuple(costs[: len(settlement.attempts)]), "p" * 64, hashes, now_us
    assert _made(compiled.closing_body, closing_record, *facts) == _made(pure.closing_body, closing_record, *facts)


@pytest.mark.compiled
@given(
    settlement=_settlements(USUAL_VALUES),
    hashes=_hashes(USUAL_VALUES),
    now_us=MOMENTS_US,
    costs=st.lists(st.none() | USUAL_VALUES.number, min_size=3, max_size=3),
)
def test_a_usual_outcome_needs_no_record(
    pure: ModuleType,
    compiled: ModuleType,
    settlement: Settlement,
    hashes: Hashes,
    now_us: int,
    costs: list[int | None],
) -> None:
    """The same, where nothing is left to `make` but what is longer than the buffer."""
    facts = settlement, tuple(costs[: len(settlement.attempts)]), "p" * 64, hashes, now_us
    expected = pure.closing_body(closing_record, *facts)
    if len(expected) < 8000:
        assert compiled.closing_body(None, *facts) == expected


@pytest.mark.compiled
@given(
    headers=HEADERS,
    texts=st.tuples(*[ALL_VALUES.text] * 2, *[st.none() | ALL_VALUES.text] * 3, ALL_VALUES.text),
    endpoint=st.sampled_from(Endpoint),
    caller=st.none() | _callers(ALL_VALUES),
    stream=st.booleans(),
    now_us=MOMENTS_US,
)
def test_an_intent_is_the_same_line(
    pure: ModuleType,
    compiled: ModuleType,
    headers: list[tuple[bytes, bytes]],
    texts: tuple[str, str, str | None, str | None, str | None, str],
    endpoint: Endpoint,
    caller: Caller | None,
    stream: bool,
    now_us: int,
) -> None:
    """Whatever the call brings, the first x-request-id of several included."""
    request_id, client_ip, requested, provider, model, epoch = texts
    call = Call(endpoint, "/", headers, None, client_ip, RequestId(request_id), 0.0)  # type: ignore[arg-type]
    facts = call, caller, requested, stream, provider, model, epoch, now_us
    assert _made(compiled.intent_body, intent_record, *facts) == _made(pure.intent_body, intent_record, *facts)


@pytest.mark.compiled
@given(headers=HEADERS)
def test_the_callers_id_is_found_alike(
    pure: ModuleType, compiled: ModuleType, headers: list[tuple[bytes, bytes]]
) -> None:
    """The first x-request-id of several, as `Call.header` says it."""
    call = Call(Endpoint.CHAT, "/", headers, None, "", RequestId("r"), 0.0)  # type: ignore[arg-type]
    assert compiled.client_request_id(headers) == pure.client_request_id(headers) == call.header(b"x-request-id")


@pytest.mark.compiled
def test_the_usual_line_needs_no_record(compiled: ModuleType) -> None:
    """With every field set it is written without `make`: no field that a closing record may have is unknown to it."""
    costs_nusd = (157_000, 5)
    record = closing_record(USUAL, costs_nusd, "p" * 64, HASHED, MOMENT_US)
    body = compiled.closing_body(None, USUAL, costs_nusd, "p" * 64, HASHED, MOMENT_US)
    assert body == msgspec.json.encode(record)[1:]
    never = {"attempt", "dropped", "action", "count", "detail"}  # `dropped` is left to `make`
    assert set(msgspec.json.decode(b"{" + body)) == {*Record.__struct_fields__} - never
    told = {name for attempt in msgspec.json.decode(b"{" + body)["attempts"] for name in attempt}
    assert told == {*AttemptRecord.__struct_fields__} - {"skipped"}


class _Entry(msgspec.Struct):
    body: bytes | None
    event_type: str
    request_id: str | None


@given(
    events=st.lists(
        st.tuples(
            st.none() | st.binary(max_size=40),
            st.sampled_from(["request_received", "response_sent", "request_failed", "security_event"]),
            st.sampled_from([None, "r1", "r2"]),
        ),
        max_size=12,
    ),
    room=st.integers(0, 2000),
    most_lines=st.integers(0, 12),
    seq=st.integers(0, 2**40),
)
def test_a_batch_has_its_place(
    twin: ModuleType,
    events: list[tuple[bytes | None, str, str | None]],
    room: int,
    most_lines: int,
    seq: int,
) -> None:
    """Each line names the hash of the one before; it ends before the first without a body, and where a commit is full.

    What is left open is told with the place of its line.
    """
    queue = deque(_Entry(*event) for event in events)
    batch: list[_Entry] = []
    lines: list[bytes] = []
    opened: dict[str, Any] = {}
    end = twin.place(queue, batch, lines, opened, (7, seq, GENESIS), "file", 100, 100 + room, most_lines)
    prev, offset, open_now = GENESIS, 100, {}
    for number, entry in enumerate(batch, 1):
        assert offset < 100 + room
        line = b'{"v":1,"seq":%d,"slot":7,"prev":"%b",%b' % (seq + number, prev.encode(), entry.body)
        assert lines[number - 1] == line
        prev = hash_line(line)
        if entry.request_id is not None and entry.event_type == "request_received":
            open_now[entry.request_id] = ("file", offset, seq + number, prev)
        elif entry.event_type in ("response_sent", "request_failed"):
            open_now.pop(entry.request_id, None)
        offset += len(line) + 1
    assert end == (seq + len(batch), prev, offset)
    assert opened == open_now
    assert [*batch, *queue] == [_Entry(*event) for event in events]
    assert len(lines) == len(batch) <= most_lines
    assert not queue or queue[0].body is None or offset >= 100 + room or len(lines) == most_lines
