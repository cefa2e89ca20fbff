"""How many tokens a text may have, where nobody has counted them. Pure.

An estimate is always told as one (`usage_source` is `estimated`). Four bytes a token is what English text and code
come to with the vocabularies in use; other scripts have more bytes a character and fewer characters a token, which
keeps the figure in the right order of magnitude.
"""

import msgspec

BYTES_PER_TOKEN = 4


def estimate_tokens(size_bytes: int) -> int:
    """Tokens in `size_bytes` of UTF-8 text: a quarter, rounded up; 0 only for an empty text."""
    return -(-size_bytes // BYTES_PER_TOKEN)


def estimate_request_tokens(body: bytes) -> int:
    """Tokens that a request's texts may have: its strings, without keys, images and other encoded data.

    `body` is a JSON object that has been checked. Source of the figure for images: none; they count as nothing here,
    because their cost depends on a size in pixels that only the provider works out.
    """
    return estimate_tokens(_text_bytes(msgspec.json.decode(body)))


def _text_bytes(root: object) -> int:
    size_bytes = 0
    left = [root]
    while left:
        value = left.pop()
        if isinstance(value, str):
            if not value.startswith("data:"):
                size_bytes += len(value.encode("utf-8", "surrogatepass"))
        elif isinstance(value, list):
            left.extend(value)
        elif isinstance(value, dict):
            encoded = value.get("type") == "base64"
            left.extend(item for key, item in value.items() if not (encoded and key == "data"))
    return size_bytes
