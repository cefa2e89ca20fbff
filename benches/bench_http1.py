"""What the compiled HTTP/1.1 twin saves: both twins, and h11 beside them for the heads, interleaved, in one process."""

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import h11

from securellm._fast import http1_py

REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway.example:8080\r\nAccept-Encoding: gzip, deflate\r\n"
    b"Connection: keep-alive\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
    b"User-Agent: OpenAI/Python 3.54.0\r\nX-Stainless-Lang: python\r\nX-Stainless-Package-Version: 3.54.0\r\n"
    b"X-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\n"
    b"X-Stainless-Runtime-Version: 3.11.9\r\nAuthorization: Bearer %s\r\nX-Stainless-Async: false\r\n"
    b"x-stainless-retry-count: 0\r\nContent-Length: 300\r\n\r\n"
) % (b"k" * 56)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nDate: Sun, 22 Nov 2026 12:00:00 GMT\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\nConnection: keep-alive\r\naccess-control-expose-headers: X-Request-ID\r\n"
    b"openai-processing-ms: 251\r\nopenai-version: 2020-10-01\r\nx-ratelimit-limit-requests: 10000\r\n"
    b"x-ratelimit-remaining-requests: 9999\r\nx-request-id: req_0123456789abcdef\r\ncf-cache-status: DYNAMIC\r\n"
    b'Server: cloudflare\r\nCF-RAY: 0123456789abcdef-ZRH\r\nalt-svc: h3=":443"; ma=86400\r\n\r\n'
)
HEADERS = http1_py.parse_request(REQUEST, 0, 65_536)[0].headers  # type: ignore[index]  # it is complete
CHUNK = b"d4\r\n" + b"x" * 0xD4 + b"\r\n"
ROUNDS = 9

Work = Callable[[], Any]


def _h11_request() -> Any:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(REQUEST)
    return list(connection.next_event().headers)


def _decode(twin: ModuleType, piece: bytes, times: int) -> bytes:
    decoder = twin.ChunkedDecoder(request=False)
    return b"".join([decoder.feed(piece)[0] for _ in range(times)])


def _cases(twin: ModuleType) -> dict[str, tuple[Work, int]]:
    """Name -> what is done, and how many heads or chunks that is."""
    return {
        "a request's head": (lambda: twin.parse_request(REQUEST, 0, 65_536), 1),
        "an answer's head": (lambda: twin.parse_response(RESPONSE, 0, 65_536, False), 1),
        "half a request's head": (lambda: twin.parse_request(REQUEST[:400], 0, 65_536), 1),
        "writing an answer's head": (lambda: twin.encode_response(200, HEADERS), 1),
        "chunks, one a read": (lambda: _decode(twin, CHUNK, 100), 100),
        "chunks, 20 a read": (lambda: _decode(twin, CHUNK * 20, 5), 100),
    }


def _measure(work: Work, times: int) -> float:
    started = time.process_time()
    for _ in range(times):
        work()
    return time.process_time() - started


def run(short: bool) -> list[dict[str, Any]]:
    """One row a case; `short` checks that the twins agree and measures nothing worth quoting."""
    from securellm._fast import http1_c

    pure, compiled = _cases(http1_py), _cases(http1_c)
    rows = []
    for name, (_, parts) in pure.items():
        works = {"pure": pure[name][0], "compiled": compiled[name][0]}
        if works["pure"]() != works["compiled"]():
            raise AssertionError(f"http1, {name}: the twins do not agree")
        if name == "a request's head":
            works["h11"] = _h11_request
        times = 10 if short else max(50, 5_000 // parts)
        best = dict.fromkeys(works, float("inf"))
        for _ in range(1 if short else ROUNDS):
            for way, work in works.items():
                best[way] = min(best[way], _measure(work, times))
        per_part = {way: round(seconds / times / parts * 1e9) for way, seconds in best.items()}
        rows.append(
            {
                "case": f"http1: {name}",
                "h11_ns": per_part.get("h11", "-"),
                "pure_ns": per_part["pure"],
                "compiled_ns": per_part["compiled"],
                "ratio": round(best["pure"] / best["compiled"], 1),
            }
        )
    return rows
