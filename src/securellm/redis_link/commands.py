"""What is asked of Redis, and what becomes of it. Pure."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

Word = bytes | str | int
Reply = Any  # whatever redis-py makes of it: bytes, int, None, bool, or a list of these

COMMAND_BYTES = 64  # what a command costs beside its words


class RedisUnavailable(Exception):
    """Redis cannot be asked, did not answer in time or refused; the text is for people and holds no secret."""


class Script(msgspec.Struct, frozen=True):
    """A Lua script, sent by its hash; whole only to a server that has not seen it."""

    source: str
    sha: str

    @classmethod
    def of(cls, source: str) -> "Script":
        """The script with its hash."""
        return cls(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


class _Pending:
    """Nothing is known yet."""


PENDING = _Pending()


class Asked:
    """One command under way: queued in Trio's thread, answered in the worker's, delivered in Trio's."""

    __slots__ = ("given_up", "outcome", "queued_s", "script", "size_bytes", "then", "words")

    def __init__(
        self,
        words: Sequence[Word],
        *,
        queued_s: float,
        script: Script | None = None,
        then: Callable[[Reply | RedisUnavailable], None] | None = None,
    ) -> None:
        self.words = words
        self.script = script  # then the words are what follows the hash: number of keys, keys, arguments
        self.then = then  # run in Trio's thread once the outcome is there
        self.queued_s = queued_s
        self.given_up = False  # nobody waits any more; not sent if it has not been
        self.outcome: Reply | RedisUnavailable | _Pending = PENDING
        self.size_bytes = COMMAND_BYTES + sum(16 if isinstance(word, int) else len(word) for word in words)
