"""Read a provider's whole body, bounded: what is held back until its record is durable must fit in memory."""

from securellm.errors import ProviderError, UpstreamInvalid
from securellm.upstream.client import Exchange

MAX_WHOLE_BYTES = 256 * 1024 * 1024  # images and long batches of embeddings come to tens of megabytes
MAX_REFUSAL_BYTES = 1024 * 1024  # an error body; what is longer is cut


async def read_whole(exchange: Exchange) -> bytes:
    """All of it. Raises UpstreamTruncated, and UpstreamInvalid when it is over MAX_WHOLE_BYTES."""
    pieces: list[bytes] = []
    size_bytes = 0
    while data := await exchange.receive():
        size_bytes += len(data)
        if size_bytes > MAX_WHOLE_BYTES:
            raise UpstreamInvalid(f"the provider's answer is over {MAX_WHOLE_BYTES} bytes")
        pieces.append(data)
    return b"".join(pieces)


async def read_refusal(exchange: Exchange) -> bytes:
    """The body of an error, as far as it comes: its status has said what matters."""
    body = b""
    try:
        while len(body) < MAX_REFUSAL_BYTES and (data := await exchange.receive()):
            body += data
    except ProviderError:
        pass
    return body[:MAX_REFUSAL_BYTES]
