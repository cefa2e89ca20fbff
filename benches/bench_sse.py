"""What the compiled splitter of server-sent events saves: both twins, interleaved, in one process."""

import time
from types import ModuleType
from typing import Any

from securellm._fast import sse_py

CHUNK = (
    b'data: {"id":"chatcmpl-x","object":"chat.completion.chunk","created":1760000000,"model":"m","choices":'
    b'[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
)
NAMED = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"text":" word"}}\n\n'
ROUNDS = 9


def _cases(events: int) -> dict[str, list[bytes]]:
    """Name -> the pieces that are fed; every case holds `events` events."""
    return {
        "one chunk a read": [CHUNK] * events,
        "20 chunks a read": [CHUNK * 20] * (events // 20),
        "one chunk in two reads": [CHUNK[:100], CHUNK[100:]] * events,
        "named events": [NAMED] * events,
        "named, CRLF": [NAMED.replace(b"\n", b"\r\n")] * events,
    }


def _feed(twin: ModuleType, pieces: list[bytes]) -> tuple[int, float]:
    """How many events came out, and the CPU seconds that it took."""
    feed = twin.SSESplitter().feed
    started = time.process_time()
    count = 0
    for piece in pieces:
        count += len(feed(piece))
    return count, time.process_time() - started


def run(short: bool) -> list[dict[str, Any]]:
    """One row a case; `short` checks that the twins agree and measures nothing worth quoting."""
    from securellm._fast import sse_c

    events = 200 if short else 20_000
    rows = []
    for name, pieces in _cases(events).items():
        best = {sse_py: float("inf"), sse_c: float("inf")}
        for _ in range(1 if short else ROUNDS):
            for twin in best:
                count, seconds = _feed(twin, pieces)
                if count != events:
                    raise AssertionError(f"{twin.__name__}, {name}: {count} events of {events}")
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
