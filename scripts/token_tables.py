#!/usr/bin/env python3
"""Write the token tables that are shipped, or check that they are what this would write: token_tables.py [--check]

From the published vocabularies in ../shared/vocab, whose SHA-256 is checked, and from tiktoken's own regular-expression
engine, which alone says what its \\p{L} means: a character that Unicode has classed since would be counted otherwise.
The formats are told in src/securellm/_fast/vocabulary/__init__.py.
"""

import base64
import gzip
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import tiktoken

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT.parent / "shared" / "vocab"
SHIPPED = ROOT / "src" / "securellm" / "_fast" / "vocabulary"

SHA256 = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
# The numbers are those of `tokens_py.CharacterClass`; what is in none is 0.
PATTERNS = ((r"[\p{Lu}\p{Lt}]", 1), (r"\p{Ll}", 2), (r"[\p{Lm}\p{Lo}]", 3), (r"\p{M}", 4), (r"\p{N}", 5), (r"\s", 7))
NEWLINE = 6
CODE_POINTS = 0x110000
BLOCK = 256


def vocabulary(name: str) -> bytes:
    """The tokens in order of rank: how many, their lengths, their bytes."""
    published = gzip.decompress((PUBLISHED / f"{name}.tiktoken.gz").read_bytes())
    digest = hashlib.sha256(published).hexdigest()
    if digest != SHA256[name]:
        raise SystemExit(f"{name}: the published file has SHA-256 {digest}, expected {SHA256[name]}")
    tokens = []
    for line in published.splitlines():
        token, rank = line.split()
        if int(rank) != len(tokens):
            raise SystemExit(f"{name}: rank {int(rank)} where {len(tokens)} was expected")
        tokens.append(base64.b64decode(token))
    return len(tokens).to_bytes(4, "little") + bytes(map(len, tokens)) + b"".join(tokens)


def classes() -> bytes:
    """The class of every code point: which block of 256 each block is like, then the blocks that differ."""
    code = bytearray(CODE_POINTS)
    text = "".join(chr(point) for point in range(CODE_POINTS) if not 0xD800 <= point < 0xE000)
    for pattern, number in PATTERNS:
        for character in _members(pattern, text):
            if code[ord(character)]:
                raise SystemExit(f"U+{ord(character):04X} is in two classes")
            code[ord(character)] = number
    code[ord("\r")] = code[ord("\n")] = NEWLINE
    blocks: dict[bytes, int] = {}
    index = bytes(
        blocks.setdefault(bytes(code[start : start + BLOCK]), len(blocks)) for start in range(0, CODE_POINTS, BLOCK)
    )
    return index + b"".join(blocks)


def _members(pattern: str, text: str) -> Iterator[str]:
    # An encoding leaves out what its pattern does not match, so one whose tokens are the bytes gives the members back.
    bytewise = {bytes([value]): value for value in range(256)}
    probe = tiktoken.Encoding("probe", pat_str=pattern, mergeable_ranks=bytewise, special_tokens={})
    for start in range(0, len(text), 65536):
        yield from bytes(probe.encode_ordinary(text[start : start + 65536])).decode()


def main() -> None:
    """Write, or check."""
    tables = {f"{name}.bin": vocabulary(name) for name in SHA256} | {"classes.bin": classes()}
    if sys.argv[1:] == ["--check"]:
        if stale := [name for name, data in tables.items() if (SHIPPED / name).read_bytes() != data]:
            raise SystemExit(f"not what this script writes: {', '.join(stale)}")
    elif sys.argv[1:]:
        raise SystemExit(__doc__)
    else:
        for name, data in tables.items():
            (SHIPPED / name).write_bytes(data)


if __name__ == "__main__":
    main()
