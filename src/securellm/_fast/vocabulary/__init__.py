"""The token tables that are shipped: two vocabularies, and the classes of code points. Reads its own files.

`<encoding>.bin` has the tokens in order of rank: their number (32 bits, little-endian), the length of each (a byte),
and their bytes one after the other. Expanded again they are the published files, to the bit. `classes.bin` has the
class of every code point: for each of the 0x1100 blocks of 256 which block it is like (a byte), then those blocks.
All are written by `scripts/token_tables.py`. Rejected: a hash table to be mapped into memory; it is three times the
size in the wheel and saves the few milliseconds in which one is built.

The vocabularies are OpenAI's, under the MIT licence, whose text is in LICENSE beside this file.
"""

from pathlib import Path

ENCODINGS = ("o200k_base", "cl100k_base")

_HERE = Path(__file__).parent


def read_vocabulary(encoding: str) -> bytes:
    """The tokens of one of ENCODINGS."""
    return (_HERE / f"{encoding}.bin").read_bytes()


def read_classes() -> bytes:
    """The classes of all code points."""
    return (_HERE / "classes.bin").read_bytes()
