"""The yardstick: Hypercorn and Quart-Trio as usually written, answering with constants. python hello_server.py PORT

Also the upstream of bench_gateway: it speaks just enough of chat completions.
"""

import sys
from collections.abc import AsyncIterator

import hypercorn.trio
import trio
from hypercorn.config import Config
from quart import Response, request
from quart_trio import QuartTrio

CHUNKS = 100
ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1760000000,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":1,'
    b'"total_tokens":6}}'
)
CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1760000000,"model":"m","choices":[{"index":0,'
    b'"delta":{"content":" word"},"finish_reason":null}]}\n\n'
)

app = QuartTrio(__name__)


@app.post("/v1/chat/completions")
async def answer() -> Response:
    body = await request.get_data()
    if b'"stream":true' in body:
        return Response(_stream(), content_type="text/event-stream")
    return Response(ANSWER, content_type="application/json")


async def _stream() -> AsyncIterator[bytes]:
    for _ in range(CHUNKS):
        yield CHUNK
        await trio.lowlevel.checkpoint()
    yield CHUNK.replace(b'{"content":" word"},"finish_reason":null', b'{},"finish_reason":"stop"')
    yield b"data: [DONE]\n\n"


@app.get("/readyz")
async def ready() -> Response:
    return Response(b"")


def main() -> None:
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    config.keep_alive_max_requests = 1_000_000  # its default ends a kept connection after 1,000
    config.accesslog = None
    trio.run(hypercorn.trio.serve, app, config)


if __name__ == "__main__":
    main()
