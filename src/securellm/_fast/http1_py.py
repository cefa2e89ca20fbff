"""HTTP/1.1 heads and chunked bodies, taken strictly: the definition, which `http1_c.pyx` may only outrun. Pure.

Whatever two readers could understand differently is refused, because that is how a request is smuggled past whoever
stands in front of us: both or several of Content-Length and Transfer-Encoding, lengths that are not plain digits, any
transfer coding but `chunked`, folded lines, bare CR or LF, spaces before a colon, control characters, a Host that is
missing, repeated or no host. Every byte of a head is looked at; nothing is repaired.

Source: RFC 9112 (sections 2.2, 3.2, 5, 6, 7.1, 11.2) and RFC 9110. h11, on which the reference lane stands, repairs
some of these (folding, bare LF, repeated equal lengths, `Transfer-Encoding` over `Content-Length`); a definition built
on it would have to look at all bytes before h11 does. So this one stands alone, and the tests hold it against h11:
what is accepted here, h11 accepts with the same meaning.

How far the bytes have arrived never changes the result: a head is judged when it is complete, and what condemns it
earlier (its first byte, a line without CR LF, its size) is looked at before everything else.

As long as it is because every refusal has its reason written out, and heads and bodies share their reasons.
"""

import re

import msgspec

from securellm.errors import BadRequest, HeadTooLarge, InternalError, InvalidTarget, SecureLLMError, UpstreamInvalid

MAX_FIELDS = 256  # in one head; browsers and SDKs send some 20, providers some 40
MAX_LENGTH = 2**63 - 1  # bytes of a body or a chunk that can be counted
MAX_EXTENSION_BYTES = 4096  # of chunk extensions in one body; nobody uses them
MAX_TRAILER_BYTES = 16 * 1024  # after a chunked body; read and thrown away

_LETTERS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TOKEN = _LETTERS + b"!#$%&'*+-.^_`|~"  # what methods and names are made of
HOST = _LETTERS + b"!$%&'*+-._~(),;=:[]"  # RFC 3986 host and port; no user, no path, no fragment
VISIBLE = bytes(range(0x21, 0x7F))  # what a target may hold
TEXT = b"\t " + VISIBLE + bytes(range(0x80, 0x100))  # what a field's value may hold

LAST_CHUNK = b"0\r\n\r\n"

# Why a head or a body is refused. The numbers stand in http1_c.pxd, too.
NOT_HTTP = 1
LINE_END = 2
TOO_LARGE = 3
TOO_MANY_FIELDS = 4
START_LINE = 5
VERSION = 6
CONNECT = 7
TARGET_BYTES = 8
TARGET_FORM = 9
FOLDED = 10
FIELD_NAME = 11
FIELD_VALUE = 12
LENGTH_TWICE = 13
ENCODING_TWICE = 14
LENGTH_AND_ENCODING = 15
ENCODING_IN_1_0 = 16
ENCODING_OTHER = 17
LENGTH_FORM = 18
HOST_TWICE = 19
HOST_MISSING = 20
HOST_FORM = 21
STATUS = 22
SWITCHED = 23
CHUNK_SIZE = 24
CHUNK_EXTENSION = 25
CHUNK_END = 26
TRAILER = 27

REASONS = {
    NOT_HTTP: "the first byte is not one of an HTTP message",
    LINE_END: "a line of the head does not end in CR LF",
    TOO_LARGE: "the head is over the bytes that it may have",
    TOO_MANY_FIELDS: f"the head has more than {MAX_FIELDS} fields",
    START_LINE: "the first line is not that of an HTTP message",
    VERSION: "the message is not HTTP/1.0 or HTTP/1.1; HTTP/2 is not spoken here",
    CONNECT: "CONNECT is refused: this is not a tunnel",
    TARGET_BYTES: "the request target is empty or holds bytes outside visible ASCII",
    TARGET_FORM: "the request target must be a path that begins with a slash, not a URL, a host or '*'",
    FOLDED: "a header field is folded over several lines",
    FIELD_NAME: "a header field's name is empty, holds a character that names do not have, or has no colon behind it",
    FIELD_VALUE: "a header field's value holds a control character",
    LENGTH_TWICE: "the Content-Length field is there more than once",
    ENCODING_TWICE: "the Transfer-Encoding field is there more than once",
    LENGTH_AND_ENCODING: "Content-Length and Transfer-Encoding are both there; only one can be meant",
    ENCODING_IN_1_0: "HTTP/1.0 has no Transfer-Encoding",
    ENCODING_OTHER: "the Transfer-Encoding is not exactly chunked",
    LENGTH_FORM: "the Content-Length is not a plain decimal number below 2**63",
    HOST_TWICE: "the Host field is there more than once",
    HOST_MISSING: "the Host field is missing",
    HOST_FORM: "the Host field is not a host with an optional port",
    STATUS: "the status is not a number of three digits from 100",
    SWITCHED: "the protocol is switched, which nobody asked for",
    CHUNK_SIZE: "a chunk's size is not a hexadecimal number below 2**63",
    CHUNK_EXTENSION: "the chunk extensions hold a control character, or are too long",
    CHUNK_END: "a chunk, or its size, is not followed by CR LF",
    TRAILER: "the trailer is not made of header fields, or is too long",
}

_LF, _CR, _COLON, _SEMICOLON = b"\n\r:;"
_REQUEST_LINE = re.compile(rb"([^ ]*)(?: (.*))? ([^ ]*)", re.DOTALL)
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: (.*))?", re.DOTALL)
_STATUS_VERSION = re.compile(rb"HTTP/1\.[01] ")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,18}")
_HEX = {digit: int(chr(digit), 16) for digit in b"0123456789abcdefABCDEF"}

Fields = list[tuple[bytes, bytes]]
Bytes = bytes | bytearray | memoryview


class RequestHead(msgspec.Struct, frozen=True, gc=False):
    """The head of one request."""

    method: bytes
    target: bytes  # begins with a slash; visible ASCII
    minor: int  # 1 for HTTP/1.1, 0 for HTTP/1.0
    headers: Fields  # names in lower case, values without the white space around them
    body_bytes: int | None  # how long the body is; None when it is chunked
    chunked: bool
    keep_alive: bool  # the caller does not ask for the connection to be closed
    expect_continue: bool  # the caller waits for `100 Continue`
    upgrade: bool  # an Upgrade field is there


class ResponseHead(msgspec.Struct, frozen=True, gc=False):
    """The head of one answer, interim (1xx) ones included."""

    status: int
    minor: int
    headers: Fields
    body_bytes: int | None  # 0 where status or method leave no body; None when chunked or ended by the connection
    chunked: bool
    keep_alive: bool  # the connection can be used again after the body


class _Malformed(Exception):
    """Carries one of the numbers above."""

    def __init__(self, reason: int) -> None:
        self.reason = reason


def parse_request(data: Bytes, start: int, max_head_bytes: int) -> tuple[RequestHead, int] | None:
    """The request head that begins at `start`, and where it ends; None while it is incomplete.

    Raises BadRequest, InvalidTarget or HeadTooLarge, after which the connection is of no more use.
    """
    try:
        window = bytes(data[start : start + max_head_bytes])
        size = _find_end(window, len(data) - start, max_head_bytes)
        return (_request(window[:size]), start + size) if size else None
    except _Malformed as malformed:
        raise request_fault(malformed.reason, max_head_bytes) from None


def parse_response(data: Bytes, start: int, max_head_bytes: int, asked_head: bool) -> tuple[ResponseHead, int] | None:
    """As `parse_request` for an answer; `asked_head`: the request was a HEAD. Raises UpstreamInvalid."""
    try:
        window = bytes(data[start : start + max_head_bytes])
        size = _find_end(window, len(data) - start, max_head_bytes)
        return (_response(window[:size], asked_head), start + size) if size else None
    except _Malformed as malformed:
        raise response_fault(malformed.reason) from None


class RequestHeads:
    """Reads the heads of one connection: one that repeats the last, but for its Content-Length, may cost less."""

    def __init__(self) -> None:
        self.raw = b""  # the bytes of the last head
        self.repeats = False  # that head is known to say what the one before said, but for its Content-Length

    def __repr__(self) -> str:
        return f"<RequestHeads raw={len(self.raw)}>"

    def parse(self, data: bytes, max_head_bytes: int) -> tuple[RequestHead, int] | None:
        """As `parse_request` from the first byte."""
        parsed = parse_request(data, 0, max_head_bytes)
        if parsed is not None:
            self.raw = data[: parsed[1]]
        return parsed


def request_fault(reason: int, max_head_bytes: int) -> SecureLLMError:
    """What a caller is told."""
    if reason == TOO_LARGE:
        return HeadTooLarge(f"the request head is over {max_head_bytes} bytes (server.max_head_bytes)")
    if reason == TOO_MANY_FIELDS:
        return HeadTooLarge(REASONS[reason])
    if reason == TARGET_FORM:
        return InvalidTarget(REASONS[reason])
    return BadRequest(REASONS[reason])


def response_fault(reason: int) -> SecureLLMError:
    """What is said of a provider."""
    return UpstreamInvalid(f"the provider's answer is not valid HTTP/1.1: {REASONS[reason]}")


class ChunkedDecoder:
    """Takes the chunks off a body, cut anywhere. Extensions and trailers are bounded, checked and thrown away."""

    __slots__ = ("_extension_bytes", "_left", "_read", "_request", "_size", "_trailer_bytes", "done")

    def __init__(self, *, request: bool) -> None:
        """`request`: the body is a caller's, and what is wrong with it is a BadRequest, else UpstreamInvalid."""
        self.done = False
        self._request = request
        self._read = self._read_size  # what the next byte is given to
        self._size = -1  # of the chunk whose size is being read; -1 before its first digit
        self._left = 0  # bytes of the chunk that have not arrived
        self._extension_bytes = 0
        self._trailer_bytes = 0

    def __repr__(self) -> str:
        return f"<ChunkedDecoder done={self.done} left={self._left}>"

    def feed(self, data: bytes, start: int = 0) -> tuple[bytes, int]:
        """The body's bytes among these, and where it ends, or len(data). Raises BadRequest or UpstreamInvalid."""
        body: list[bytes] = []
        at = start
        try:
            while at < len(data) and not self.done:
                if self._left:
                    piece = data[at : at + self._left]
                    body.append(piece)
                    self._left -= len(piece)
                    at += len(piece)
                else:
                    self._read(data[at])
                    at += 1
        except _Malformed as malformed:
            fault = request_fault(malformed.reason, 0) if self._request else response_fault(malformed.reason)
            raise fault from None
        return b"".join(body), at

    def _read_size(self, byte: int) -> None:
        digit = _HEX.get(byte)
        if digit is not None:
            if self._size > MAX_LENGTH >> 4:
                raise _Malformed(CHUNK_SIZE)
            self._size = max(self._size, 0) * 16 + digit
        elif byte == _CR and self._size >= 0:
            self._read = self._read_size_end
        elif byte == _SEMICOLON and self._size >= 0:
            self._read = self._read_extension
        else:
            raise _Malformed(CHUNK_SIZE)

    def _read_extension(self, byte: int) -> None:
        self._extension_bytes += 1
        if byte == _CR:
            self._read = self._read_size_end
        elif byte not in TEXT or self._extension_bytes > MAX_EXTENSION_BYTES:
            raise _Malformed(CHUNK_EXTENSION)

    def _read_size_end(self, byte: int) -> None:
        if byte != _LF:
            raise _Malformed(CHUNK_END)
        self._left = self._size
        self._read = self._read_chunk_end if self._size else self._read_trailer_start
        self._size = -1

    def _read_chunk_end(self, byte: int) -> None:
        if byte != _CR:
            raise _Malformed(CHUNK_END)
        self._read = self._read_chunk_end_lf

    def _read_chunk_end_lf(self, byte: int) -> None:
        if byte != _LF:
            raise _Malformed(CHUNK_END)
        self._read = self._read_size

    def _read_trailer_start(self, byte: int) -> None:
        if byte == _CR:
            self._read = self._read_last
        else:
            self._read = self._read_trailer_name
            if byte == _COLON:
                raise _Malformed(TRAILER)
            self._read_trailer_name(byte)

    def _read_trailer_name(self, byte: int) -> None:
        self._count_trailer()
        if byte == _COLON:
            self._read = self._read_trailer_value
        elif byte not in TOKEN:
            raise _Malformed(TRAILER)

    def _read_trailer_value(self, byte: int) -> None:
        self._count_trailer()
        if byte == _CR:
            self._read = self._read_trailer_end
        elif byte not in TEXT:
            raise _Malformed(TRAILER)

    def _read_trailer_end(self, byte: int) -> None:
        if byte != _LF:
            raise _Malformed(TRAILER)
        self._read = self._read_trailer_start

    def _read_last(self, byte: int) -> None:
        if byte != _LF:
            raise _Malformed(TRAILER)
        self.done = True

    def _count_trailer(self) -> None:
        self._trailer_bytes += 1
        if self._trailer_bytes > MAX_TRAILER_BYTES:
            raise _Malformed(TRAILER)


def encode_chunk(data: bytes) -> bytes:
    """One chunk; nothing for nothing, because an empty chunk is the last."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def encode_request(method: bytes, target: bytes, headers: Fields) -> bytes:
    """A request's head, HTTP/1.1. Raises InternalError for what would break out of its place."""
    if not method or not _only(TOKEN, method) or not target or not _only(VISIBLE, target):
        raise InternalError("a request's method or target holds characters that it cannot have")
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, _encode_fields(headers))


def encode_response(status: int, headers: Fields) -> bytes:
    """An answer's head, HTTP/1.1, without a reason phrase. Raises InternalError as `encode_request` does."""
    if not 100 <= status <= 999:
        raise InternalError("an answer's status is not a number of three digits")
    return b"HTTP/1.1 %d \r\n%b\r\n" % (status, _encode_fields(headers))


def _encode_fields(headers: Fields) -> bytes:
    for name, value in headers:
        if not name or not _only(TOKEN, name) or not _only(TEXT, value):
            raise InternalError("a header field to be sent holds characters that it cannot have")
    return b"".join([b"%b: %b\r\n" % field for field in headers])


def _find_end(window: bytes, available: int, max_head_bytes: int) -> int:
    """How long the head is, 0 while it is incomplete."""
    if window and window[0] not in TOKEN:
        raise _Malformed(NOT_HTTP)
    line = 0
    while (lf := window.find(b"\n", line)) >= 0:
        if lf == line or window[lf - 1] != _CR:
            raise _Malformed(LINE_END)
        if lf == line + 1:
            return lf + 1
        line = lf + 1
    if available >= max_head_bytes:
        raise _Malformed(TOO_LARGE)
    return 0


def _request(head: bytes) -> RequestHead:
    start_line, *lines = head[:-4].split(b"\r\n")
    method, target, minor = _request_line(start_line)
    headers = [_field(line) for line in _bounded(lines)]
    body_bytes, chunked = _framing(headers, minor)
    hosts = _values(headers, b"host")
    if len(hosts) > 1:
        raise _Malformed(HOST_TWICE)
    if not hosts and minor == 1:
        raise _Malformed(HOST_MISSING)
    if hosts and not _only(HOST, hosts[0]):
        raise _Malformed(HOST_FORM)
    if not target.startswith(b"/"):
        raise _Malformed(TARGET_FORM)
    expects = any(value.lower() == b"100-continue" for value in _values(headers, b"expect"))
    return RequestHead(
        method=method,
        target=target,
        minor=minor,
        headers=headers,
        body_bytes=None if chunked else body_bytes or 0,
        chunked=chunked,
        keep_alive=minor == 1 and not _asks_to_close(headers),
        expect_continue=expects and minor == 1,
        upgrade=bool(_values(headers, b"upgrade")),
    )


def _request_line(line: bytes) -> tuple[bytes, bytes, int]:
    parts = _REQUEST_LINE.fullmatch(line)
    if parts is None or parts[3] not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise _Malformed(VERSION)
    method, target = parts[1], parts[2]
    if target is None or not method or not _only(TOKEN, method):
        raise _Malformed(START_LINE)
    if method == b"CONNECT":
        raise _Malformed(CONNECT)
    if not target or not _only(VISIBLE, target):
        raise _Malformed(TARGET_BYTES)
    return method, target, parts[3][7] - 0x30


def _response(head: bytes, asked_head: bool) -> ResponseHead:
    start_line, *lines = head[:-4].split(b"\r\n")
    if not _STATUS_VERSION.match(start_line):
        raise _Malformed(VERSION)
    parts = _STATUS_LINE.fullmatch(start_line)
    if parts is None:
        raise _Malformed(STATUS)
    if not _only(TEXT, parts[3] or b""):
        raise _Malformed(START_LINE)
    minor, status = int(parts[1]), int(parts[2])
    headers = [_field(line) for line in _bounded(lines)]
    body_bytes, chunked = _framing(headers, minor)
    if status == 101:
        raise _Malformed(SWITCHED)
    keep_alive = minor == 1 and not _asks_to_close(headers)
    if asked_head or status < 200 or status in (204, 304):
        # A body that is announced where none can be may follow all the same.
        in_doubt = (chunked or bool(body_bytes)) and not (asked_head or status == 304)
        return ResponseHead(status, minor, headers, 0, False, keep_alive and not in_doubt)
    until_closed = body_bytes is None and not chunked
    return ResponseHead(status, minor, headers, body_bytes, chunked, keep_alive and not until_closed)


def _bounded(lines: list[bytes]) -> list[bytes]:
    """The lines of the fields; the count is looked at behind the fields that are allowed."""
    if len(lines) > MAX_FIELDS:
        for line in lines[:MAX_FIELDS]:
            _field(line)
        raise _Malformed(TOO_MANY_FIELDS)
    return lines


def _field(line: bytes) -> tuple[bytes, bytes]:
    if line[0] in b" \t":
        raise _Malformed(FOLDED)
    name, colon, value = line.partition(b":")
    if not colon or not name or not _only(TOKEN, name):
        raise _Malformed(FIELD_NAME)
    value = value.strip(b" \t")
    if not _only(TEXT, value):
        raise _Malformed(FIELD_VALUE)
    return name.lower(), value


def _framing(headers: Fields, minor: int) -> tuple[int | None, bool]:
    """What the fields say about the body: its length, None when they do not tell, and whether it is chunked."""
    lengths, encodings = _values(headers, b"content-length"), _values(headers, b"transfer-encoding")
    if len(lengths) > 1:
        raise _Malformed(LENGTH_TWICE)
    if len(encodings) > 1:
        raise _Malformed(ENCODING_TWICE)
    if lengths and encodings:
        raise _Malformed(LENGTH_AND_ENCODING)
    if encodings:
        if minor == 0:
            raise _Malformed(ENCODING_IN_1_0)
        if encodings[0].lower() != b"chunked":
            raise _Malformed(ENCODING_OTHER)
        return None, True
    if not lengths:
        return None, False
    if not _LENGTH.fullmatch(lengths[0]) or int(lengths[0]) > MAX_LENGTH:
        raise _Malformed(LENGTH_FORM)
    return int(lengths[0]), False


def _only(allowed: bytes, value: bytes) -> bool:
    """Whether all bytes of a value are allowed ones."""
    return not value.translate(None, allowed)


def _values(headers: Fields, wanted: bytes) -> list[bytes]:
    return [value for name, value in headers if name == wanted]


def _asks_to_close(headers: Fields) -> bool:
    options = b",".join(_values(headers, b"connection")).lower().split(b",")
    return any(option.strip(b" \t") == b"close" for option in options)
