"""What a supervisor and its worker say to each other, as lines of JSON over a socket pair. Pure.

worker to supervisor   ready, alive, prepared, committed
supervisor to worker   stop, prepare, commit, abort
"""

import enum

import msgspec

LINE_BYTES_AT_MOST = 1024 * 1024  # a message is some hundred bytes; a list of mistakes may be long


class Word(enum.Enum):
    """What a message is about."""

    READY = "ready"  # it accepts connections
    ALIVE = "alive"  # its event loop turns
    PREPARED = "prepared"  # it could take the new configuration; `why` says why not
    COMMITTED = "committed"  # the new configuration is in force
    STOP = "stop"  # `why` is the name of the signal, or NOW
    PREPARE = "prepare"  # load the configuration; it must have this epoch
    COMMIT = "commit"  # take what was prepared
    ABORT = "abort"  # forget what was prepared; `why` is for the audit log, empty when another worker tells it


NOW = "now"  # in STOP: without waiting for anybody


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line."""

    word: Word
    why: str = ""
    epoch: str = ""
    attempt: int = 0  # which reload it belongs to: an answer may come when that one has been given up


class Lines:
    """Cuts what arrives into messages."""

    def __init__(self) -> None:
        self._buffer = b""
        self._decoder = msgspec.json.Decoder(Message)

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete now. Raises ValueError for what is none."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > LINE_BYTES_AT_MOST:
            raise ValueError(f"got a line of more than {LINE_BYTES_AT_MOST} bytes")
        return [self._decoder.decode(line) for line in lines]


def encode_message(message: Message) -> bytes:
    """The message as a line."""
    return msgspec.json.encode(message) + b"\n"
