"""Token counts by others: tiktoken, from the vocabulary that we ship, and bpe-openai, which brings its own."""

import base64
import os
import warnings
from collections.abc import Callable
from itertools import accumulate, pairwise
from pathlib import Path

from securellm._fast import vocabulary

# The names under which tiktoken keeps downloaded vocabularies; it checks the SHA-256 of what it finds there.
_KEPT_AS = {
    "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790",
    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
}


def tokens_of(encoding: str) -> list[bytes]:
    """The tokens that we ship, by rank."""
    data = vocabulary.read_vocabulary(encoding)
    number = int.from_bytes(data[:4], "little")
    borders = accumulate(data[4 : 4 + number], initial=4 + number)
    return [data[start:end] for start, end in pairwise(borders)]


def published(encoding: str) -> bytes:
    """The published file, made of what we ship: a line a token, base64 and rank."""
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens_of(encoding)))


def tiktoken_count(encoding: str, directory: Path) -> Callable[[str], int]:
    """tiktoken's count; `directory` is where it is given the vocabulary."""
    (directory / _KEPT_AS[encoding]).write_bytes(published(encoding))
    os.environ["TIKTOKEN_CACHE_DIR"] = str(directory)
    try:
        import tiktoken

        found = tiktoken.get_encoding(encoding)
    finally:
        del os.environ["TIKTOKEN_CACHE_DIR"]
    return lambda text: len(found.encode_ordinary(text))


def bpe_count(encoding: str) -> Callable[[str], int]:
    """bpe-openai's count, without the wrapper that refuses long texts; lone surrogates are not for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of how it reads its own metadata
        from bpe_openai import _bindings

    counted: Callable[[str], int] = _bindings.tokenizer_for_encoding(encoding).count
    return counted
