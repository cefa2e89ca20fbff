"""What the compiled scanner of streams saves: both twins behind the same relays, interleaved, in one process."""

import time
from types import ModuleType
from typing import Any

from securellm._fast import sse_py
from securellm.wire.scan import ScanningRelay
from securellm.wire.scan_anthropic import AnthropicScan
from securellm.wire.scan_openai import OpenAIScan
from securellm.wire.scan_responses import ResponsesScan

CHUNK = (
    b'data: {"id":"chatcmpl-x","object":"chat.completion.chunk","created":1760000000,"model":"m","choices":'
    b'[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
)
CALL = CHUNK.replace(
    b'"content":" word"', b'"tool_calls":[{"index":0,"function":{"arguments":"{\\"city\\": \\"Bern\\"}"}}]'
)
USED = CHUNK.replace(
    b'"usage":null', b'"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}'
)  # as some providers write every chunk
MESSAGE = b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","model":"m"}}\n\n'
DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta",'
    b'"text":" word"}}\n\n'
)
OUTPUT = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":7,"item_id":'
    b'"msg_1","output_index":0,"content_index":0,"delta":" word","logprobs":[],"obfuscation":"x1y2z3"}\n\n'
)
ROUNDS = 9

Case = tuple[type[ScanningRelay], list[bytes]]


def _cases(events: int) -> dict[str, Case]:
    """Name -> the relay and the pieces that it is fed; every case holds `events` events that say something."""
    return {
        "chat, one chunk a read": (OpenAIScan, [CHUNK] * events),
        "chat, 20 chunks a read": (OpenAIScan, [CHUNK * 20] * (events // 20)),
        "chat, one chunk in two reads": (OpenAIScan, [CHUNK[:100], CHUNK[100:]] * events),
        "chat, CRLF": (OpenAIScan, [CHUNK.replace(b"\n", b"\r\n")] * events),
        "chat, tool calls": (OpenAIScan, [CALL] * events),
        "chat, usage in every chunk": (OpenAIScan, [USED] * events),
        "messages, one event a read": (AnthropicScan, [MESSAGE] + [DELTA] * events),
        "messages, 20 events a read": (AnthropicScan, [MESSAGE] + [DELTA * 20] * (events // 20)),
        "responses, one event a read": (ResponsesScan, [OUTPUT] * events),
    }


def _feed(twin: ModuleType, kind: type[ScanningRelay], pieces: list[bytes]) -> tuple[int, int, float]:
    """What the relay counted, and the CPU seconds that it took."""
    relay = kind(hide_usage=True, request_id="r", model="m", created_s=0, scanner=twin.StreamScanner)
    feed = relay.feed
    started = time.process_time()
    for piece in pieces:
        feed(piece)
    seconds = time.process_time() - started
    return relay.meter.semantic_events, relay.meter.output_bytes, seconds


def run(short: bool) -> list[dict[str, Any]]:
    """One row a case; `short` checks that the twins agree and measures nothing worth quoting."""
    from securellm._fast import sse_c

    events = 200 if short else 20_000
    rows = []
    for name, (kind, pieces) in _cases(events).items():
        best = {sse_py: float("inf"), sse_c: float("inf")}
        counted = set()
        for _ in range(1 if short else ROUNDS):
            for twin in best:
                semantic_events, output_bytes, seconds = _feed(twin, kind, pieces)
                counted.add((semantic_events, output_bytes))
                if semantic_events != events or len(counted) != 1:
                    raise AssertionError(f"{twin.__name__}, {name}: {semantic_events} events of {events}, {counted}")
                best[twin] = min(best[twin], seconds)
        rows.append(
            {
                "case": f"sse: {name}",
                "pure_ns_per_event": round(best[sse_py] / events * 1e9),
                "compiled_ns_per_event": round(best[sse_c] / events * 1e9),
                "ratio": round(best[sse_py] / best[sse_c], 1),
            }
        )
    return rows
