"""Exact token counts of o200k_base and cl100k_base: the definition, which `tokens_c.pyx` may only outrun. Pure.

A text is cut into pieces by the encoding's published pattern; each piece is merged by itself, always the pair of
neighbours that has the lowest rank as a token, the leftmost of equals. Special tokens are text like any other. Lone
surrogates count as U+FFFD. The classes of characters come from a table, since `re` and `unicodedata` know another
version of Unicode.

Merging a piece of up to `window_bytes` needs memory in proportion; longer ones are merged in windows that overlap.
What makes that exact is one property. Say that two neighbours *stand* when merging the bytes of both gives the two
again. Tokens of which all neighbours stand are what merging the whole gives: the first merge across one of their
borders would also be made among those two alone. So a chain of tokens from earlier windows and one from the next may
be joined at any border that they share and at which neighbours stand. Where the overlap has none, the piece is counted
prefix by prefix: the last token of a prefix is the one that stands after the last token of what is before it, and there
is exactly one. That is slow, exact and needs no more memory than the longest token.

Rejected: `tiktoken` and other regular-expression engines with unbounded backtracking (1,000,000 spaces raise a
BaseException), and a heap over the whole piece (36 bytes of memory for each of the caller's).
"""

import heapq
import re
from collections import deque
from enum import IntEnum
from functools import lru_cache
from itertools import accumulate, pairwise

WINDOW_BYTES = 1024  # a piece up to this size is merged as one
# Of two windows. What follows can change a token only through a chain of pairs whose ranks fall from left to right:
# among letters the longest such chain spans 374 bytes, and what could be found in runs of signs or space reaches 40.
OVERLAP_BYTES = 384

_CACHED_PIECES = 16384
_CACHED_CHARACTERS = 32  # longer pieces seldom come again


class CharacterClass(IntEnum):
    """What the patterns tell apart; the numbers are those of the table."""

    OTHER = 0
    UPPER = 1  # Lu, Lt
    LOWER = 2  # Ll
    LETTER = 3  # Lm, Lo
    MARK = 4  # M
    NUMBER = 5  # N
    NEWLINE = 6  # CR, LF
    SPACE = 7  # the rest of White_Space


class TokenCounter:
    """Counts the tokens of texts in one encoding; threads may share it."""

    def __init__(
        self,
        encoding: str,
        vocabulary: bytes,
        classes: bytes,
        *,
        window_bytes: int = WINDOW_BYTES,
        overlap_bytes: int = OVERLAP_BYTES,
    ) -> None:
        if not 0 < overlap_bytes < window_bytes <= WINDOW_BYTES:
            raise ValueError(f"got an overlap of {overlap_bytes} bytes in windows of {window_bytes}")
        self._pattern = re.compile(_patterns(classes)[encoding])
        self._ranks = _ranks(vocabulary)
        self._longest = max(map(len, self._ranks))
        self._window_bytes = window_bytes
        self._overlap_bytes = overlap_bytes
        self._count_cached = lru_cache(_CACHED_PIECES)(self._count_piece)

    def count(self, text: str) -> int:
        """How many tokens the text has."""
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        total = 0
        for match in self._pattern.finditer(text):
            piece = match[0]
            count = self._count_cached if len(piece) <= _CACHED_CHARACTERS else self._count_piece
            total += count(piece)
        return total

    def count_all(self, texts: list[str]) -> int:
        """How many tokens the texts have, each by itself."""
        return sum(map(self.count, texts))

    def count_prefixes(self, piece: bytes) -> int:
        """The tokens of bytes that are not cut by the pattern, without windows: what the rare case falls back to."""
        # Of the prefixes as long as the longest token, shortest first: how many tokens, and the length of the last.
        prefixes: deque[tuple[int, int]] = deque([(0, 0)], maxlen=self._longest + 1)
        for end in range(1, len(piece) + 1):
            for length in range(min(self._longest, end), 0, -1):
                count, before = prefixes[-length]
                if piece[end - length : end] in self._ranks and self._stand(piece, end - length, before, length):
                    prefixes.append((count + 1, length))
                    break
        return prefixes[-1][0]

    def _count_piece(self, text: str) -> int:
        piece = text.encode()
        if piece in self._ranks:
            return 1
        if len(piece) <= self._window_bytes:
            return len(self._merge(piece)) - 1
        return self._count_long(piece)

    def _count_long(self, piece: bytes) -> int:
        total = 0  # tokens before `start`
        start, before = 0, 0  # where the window begins, and the length of the token that ends there
        earlier = [0]  # borders of the last window from `start` on
        while True:
            borders = self._merge(piece[start : start + self._window_bytes])
            joined = self._join(piece, start, before, earlier, borders)
            if joined is None:
                return self.count_prefixes(piece)
            tokens, chain = joined
            total += tokens
            if start + borders[-1] == len(piece):
                return total + len(chain) - 1
            kept = [border for border in chain if border <= borders[-1] - self._overlap_bytes]
            if len(kept) < 2:
                return self.count_prefixes(piece)
            total += len(kept) - 1
            cut = kept[-1]
            earlier = [border - cut for border in chain[len(kept) - 1 :]]
            start, before = start + cut, cut - kept[-2]

    def _join(
        self, piece: bytes, start: int, before: int, earlier: list[int], borders: list[int]
    ) -> tuple[int, list[int]] | None:
        """How many tokens of the earlier window to take, and the new one's borders after them; None if they never meet.

        Borders count from `start`; the last of `borders` is the window's end and the first of both is 0.
        """
        ends = {border: place for place, border in enumerate(earlier)}
        for place, (border, following) in enumerate(pairwise(borders)):
            if (tokens := ends.get(border)) is not None:
                length = border - earlier[tokens - 1] if tokens else before
                if self._stand(piece, start + border, length, following - border):
                    return tokens, borders[place:]
        return None

    def _stand(self, piece: bytes, border: int, before: int, after: int) -> bool:
        """Whether the tokens of these lengths that meet at `border` stay two; `before` is 0 where a piece begins."""
        apart = [0, before, before + after] if before else [0, after]
        return self._merge(piece[border - before : border + after]) == apart

    def _merge(self, piece: bytes) -> list[int]:
        """The borders of the tokens, from 0 to the length of the piece, which is at most a window."""
        size = len(piece)
        follows = list(range(1, size + 1))  # where the part that begins here ends
        precedes = list(range(-1, size - 1))  # where the part before it begins
        rank_of = self._ranks.get
        ranks = [rank_of(piece[place : place + 2], -1) for place in range(size)]  # of a part with its neighbour, or -1
        ranks[size - 1] = -1  # one byte, and no neighbour
        heap = [(rank, place) for place, rank in enumerate(ranks) if rank >= 0]
        heapq.heapify(heap)
        while heap:
            rank, place = heapq.heappop(heap)
            if ranks[place] != rank:
                continue  # one of the two has been merged since
            gone = follows[place]
            ranks[gone] = -1
            end = follows[place] = follows[gone]
            if end < size:
                precedes[end] = place
            for left in (place, precedes[place]):
                if left >= 0:
                    middle = follows[left]
                    right = follows[middle] if middle < size else -1
                    ranks[left] = rank_of(piece[left:right], -1) if right >= 0 else -1
                    if ranks[left] >= 0:
                        heapq.heappush(heap, (ranks[left], left))
        borders = [0]
        while borders[-1] < size:
            borders.append(follows[borders[-1]])
        return borders


def _ranks(vocabulary: bytes) -> dict[bytes, int]:
    number = int.from_bytes(vocabulary[:4], "little")
    borders = accumulate(vocabulary[4 : 4 + number], initial=4 + number)
    return {vocabulary[start:end]: rank for rank, (start, end) in enumerate(pairwise(borders))}


def _patterns(classes: bytes) -> dict[str, str]:
    """The published patterns by encoding, over explicit sets of characters."""
    index, blocks = classes[:0x1100], classes[0x1100:]
    code = b"".join(blocks[place * 256 : place * 256 + 256] for place in index)
    each = {name: _ranges(code, name) for name in CharacterClass}
    upper, lower, mark, number = (each[CharacterClass[name]] for name in ("UPPER", "LOWER", "MARK", "NUMBER"))
    other_letter = each[CharacterClass.LETTER]
    letters = upper + lower + other_letter
    space = each[CharacterClass.NEWLINE] + each[CharacterClass.SPACE]
    title, small = upper + other_letter + mark, lower + other_letter + mark
    # Case folding without `re.IGNORECASE`, which knows another Unicode: of the letters here only s has a third form.
    suffix = r"'(?:[sS\u017ftTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
    lead = rf"[^\r\n{letters}{number}]?"
    signs = rf" ?[^{space}{letters}{number}]"
    return {
        "o200k_base": "|".join(
            (
                rf"{lead}[{title}]*[{small}]+(?:{suffix})?",
                rf"{lead}[{title}]+[{small}]*(?:{suffix})?",
                rf"[{number}]{{1,3}}",
                rf"{signs}+[\r\n/]*",
                rf"[{space}]*[\r\n]+",
                rf"[{space}]+(?![^{space}])",
                rf"[{space}]+",
            )
        ),
        "cl100k_base": "|".join(
            (
                suffix,
                rf"{lead}+[{letters}]++",
                rf"[{number}]{{1,3}}+",
                rf"{signs}++[\r\n]*+",
                rf"[{space}]++\Z",
                rf"[{space}]*[\r\n]",
                rf"[{space}]+(?![^{space}])",
                rf"[{space}]",
            )
        ),
    }


def _ranges(code: bytes, name: CharacterClass) -> str:
    """The characters of a class as they stand in a set of `re`."""
    runs = re.finditer(re.escape(bytes([name])) + b"+", code)
    return "".join(f"\\U{run.start():08x}-\\U{run.end() - 1:08x}" for run in runs)
