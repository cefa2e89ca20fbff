"""Requests, answers and chunked bodies that two readers could take for different things, each named after its trick.

Sources: RFC 9112 sections 2.2, 5, 6, 7.1 and 11.2, and the published families of request smuggling (CL.TE, TE.CL,
TE.TE, CL.0, chunk extensions, bare line ends).
"""

from securellm._fast import http1_py as why

_HOST = b"Host: a\r\n"


def _post(fields: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    return b"POST /v1/chat/completions " + version + b"\r\n" + _HOST + fields + b"\r\n" + body


def _get(line: bytes, fields: bytes = _HOST) -> bytes:
    return line + b"\r\n" + fields + b"\r\n"


CHUNKED = b"Transfer-Encoding: chunked\r\n"
_LAST = b"0\r\n\r\n"

REQUESTS: dict[str, tuple[int, bytes]] = {
    "CL then TE": (why.LENGTH_AND_ENCODING, _post(b"Content-Length: 4\r\n" + CHUNKED, _LAST)),
    "TE then CL": (why.LENGTH_AND_ENCODING, _post(CHUNKED + b"Content-Length: 4\r\n", _LAST)),
    "CL of nothing and TE": (why.LENGTH_AND_ENCODING, _post(b"content-length: 0\r\n" + CHUNKED, _LAST)),
    "two lengths": (why.LENGTH_TWICE, _post(b"Content-Length: 0\r\nContent-Length: 36\r\n")),
    "two equal lengths": (why.LENGTH_TWICE, _post(b"Content-Length: 2\r\ncontent-length: 2\r\n", b"{}")),
    "a list of lengths": (why.LENGTH_FORM, _post(b"Content-Length: 2, 2\r\n", b"{}")),
    "a signed length": (why.LENGTH_FORM, _post(b"Content-Length: +2\r\n", b"{}")),
    "a negative length": (why.LENGTH_FORM, _post(b"Content-Length: -2\r\n", b"{}")),
    "a hexadecimal length": (why.LENGTH_FORM, _post(b"Content-Length: 0x2\r\n", b"{}")),
    "an octal length": (why.LENGTH_FORM, _post(b"Content-Length: 010\r\n", b"{}")),
    "a length with a fraction": (why.LENGTH_FORM, _post(b"Content-Length: 2.0\r\n", b"{}")),
    "a length with an underscore": (why.LENGTH_FORM, _post(b"Content-Length: 1_0\r\n", b"{}")),
    "a length with a space in it": (why.LENGTH_FORM, _post(b"Content-Length: 1 0\r\n", b"{}")),
    "a quoted length": (why.LENGTH_FORM, _post(b'Content-Length: "2"\r\n', b"{}")),
    "no length": (why.LENGTH_FORM, _post(b"Content-Length:\r\n", b"{}")),
    "a length behind a vertical tab": (why.FIELD_VALUE, _post(b"Content-Length: \x0b2\r\n", b"{}")),
    "a length of other digits": (why.LENGTH_FORM, _post(b"Content-Length: \xd9\xa2\r\n", b"{}")),
    "a length of 2**63": (why.LENGTH_FORM, _post(b"Content-Length: 9223372036854775808\r\n")),
    "a length of 2**64 + 2": (why.LENGTH_FORM, _post(b"Content-Length: 18446744073709551618\r\n", b"{}")),
    "a list of encodings": (why.ENCODING_OTHER, _post(b"Transfer-Encoding: gzip, chunked\r\n", _LAST)),
    "chunked is not last": (why.ENCODING_OTHER, _post(b"Transfer-Encoding: chunked, gzip\r\n", _LAST)),
    "chunked twice in a list": (why.ENCODING_OTHER, _post(b"Transfer-Encoding: chunked, chunked\r\n", _LAST)),
    "chunked twice": (why.ENCODING_TWICE, _post(CHUNKED + CHUNKED, _LAST)),
    "two encodings": (why.ENCODING_TWICE, _post(b"Transfer-Encoding: identity\r\n" + CHUNKED, _LAST)),
    "identity": (why.ENCODING_OTHER, _post(b"Transfer-Encoding: identity\r\n")),
    "xchunked": (why.ENCODING_OTHER, _post(b"Transfer-Encoding: xchunked\r\n", _LAST)),
    "chunked with a comma": (why.ENCODING_OTHER, _post(b"Transfer-Encoding: chunked,\r\n", _LAST)),
    "chunked with a parameter": (why.ENCODING_OTHER, _post(b"Transfer-Encoding: chunked;q=1\r\n", _LAST)),
    "chunked in quotes": (why.ENCODING_OTHER, _post(b'Transfer-Encoding: "chunked"\r\n', _LAST)),
    "no encoding": (why.ENCODING_OTHER, _post(b"Transfer-Encoding:\r\n", _LAST)),
    "chunked behind a vertical tab": (why.FIELD_VALUE, _post(b"Transfer-Encoding: \x0bchunked\r\n", _LAST)),
    "chunked behind a NUL": (why.FIELD_VALUE, _post(b"Transfer-Encoding: chunked\0\r\n", _LAST)),
    "chunked before a bare CR": (why.FIELD_VALUE, _post(b"Transfer-Encoding: chunked\r\r\n", _LAST)),
    "chunked on the next line": (why.FOLDED, _post(b"Transfer-Encoding:\r\n chunked\r\n", _LAST)),
    "a space before the colon": (why.FIELD_NAME, _post(b"Transfer-Encoding : chunked\r\n", _LAST)),
    "a tab before the colon": (why.FIELD_NAME, _post(b"Content-Length\t: 2\r\n", b"{}")),
    "a NUL in the name": (why.FIELD_NAME, _post(b"Transfer-Encoding\0: chunked\r\n", _LAST)),
    "a line that is no field": (why.FIELD_NAME, _post(b"Transfer-Encoding\r\n", _LAST)),
    "no name": (why.FIELD_NAME, _post(b": chunked\r\n", _LAST)),
    "a name of other letters": (why.FIELD_NAME, _post(b"Content-L\xc3\xa9ngth: 2\r\n", b"{}")),
    "chunked in HTTP/1.0": (why.ENCODING_IN_1_0, _post(CHUNKED, _LAST, b"HTTP/1.0")),
    "a folded field": (why.FOLDED, _get(b"GET / HTTP/1.1", _HOST + b"X: a\r\n b\r\n")),
    "a folded first field": (why.FOLDED, _get(b"GET / HTTP/1.1", b" X: a\r\n" + _HOST)),
    "a bare CR in a value": (why.FIELD_VALUE, _get(b"GET / HTTP/1.1", _HOST + b"X: a\rY: b\r\n")),
    "a NUL in a value": (why.FIELD_VALUE, _get(b"GET / HTTP/1.1", _HOST + b"X: a\0b\r\n")),
    "a DEL in a value": (why.FIELD_VALUE, _get(b"GET / HTTP/1.1", _HOST + b"X: a\x7fb\r\n")),
    "an escape in a value": (why.FIELD_VALUE, _get(b"GET / HTTP/1.1", _HOST + b"X: \x1b[0m\r\n")),
    "a bare LF in a value": (why.LINE_END, _get(b"GET / HTTP/1.1", _HOST + b"X: a\nY: b\r\n")),
    "bare LFs": (why.LINE_END, b"GET / HTTP/1.1\nHost: a\n\n"),
    "a bare LF ends the head": (why.LINE_END, b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    "an empty line first": (why.NOT_HTTP, b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a space first": (why.NOT_HTTP, b" GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "TLS": (why.NOT_HTTP, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "two hosts": (why.HOST_TWICE, _get(b"GET / HTTP/1.1", b"Host: a\r\nHost: b\r\n")),
    "two equal hosts": (why.HOST_TWICE, _get(b"GET / HTTP/1.1", b"Host: a\r\nhost: a\r\n")),
    "no host": (why.HOST_MISSING, _get(b"GET / HTTP/1.1", b"X: a\r\n")),
    "no fields": (why.HOST_MISSING, b"GET / HTTP/1.1\r\n\r\n"),
    "a host with a path": (why.HOST_FORM, _get(b"GET / HTTP/1.1", b"Host: x/#@y\r\n")),
    "a host with a user": (why.HOST_FORM, _get(b"GET / HTTP/1.1", b"Host: me@x\r\n")),
    "a host with a space": (why.HOST_FORM, _get(b"GET / HTTP/1.1", b"Host: a b\r\n")),
    "an absolute target": (why.TARGET_FORM, _get(b"GET http://evil/ HTTP/1.1")),
    "an asterisk": (why.TARGET_FORM, _get(b"OPTIONS * HTTP/1.1")),
    "a host for a target": (why.TARGET_FORM, _get(b"GET evil:443 HTTP/1.1")),
    "CONNECT": (why.CONNECT, _get(b"CONNECT evil:443 HTTP/1.1")),
    "no target": (why.TARGET_BYTES, _get(b"GET  HTTP/1.1")),
    "nothing between method and version": (why.START_LINE, _get(b"GET HTTP/1.1")),
    "a space in the target": (why.TARGET_BYTES, _get(b"GET /a b HTTP/1.1")),
    "a tab for a space": (why.VERSION, _get(b"GET\t/\tHTTP/1.1")),
    "bytes in the target": (why.TARGET_BYTES, _get(b"GET /\xc3\xbc HTTP/1.1")),
    "a bare CR in the target": (why.TARGET_BYTES, _get(b"GET /a\rb HTTP/1.1")),
    "a space behind the version": (why.VERSION, _get(b"GET / HTTP/1.1 ")),
    "HTTP/0.9": (why.VERSION, b"GET /livez\r\n\r\n"),
    "HTTP/1.2": (why.VERSION, _get(b"GET / HTTP/1.2")),
    "HTTP/2.0": (why.VERSION, _get(b"GET / HTTP/2.0")),
    "HTTP/01.1": (why.VERSION, _get(b"GET / HTTP/01.1")),
    "http/1.1": (why.VERSION, _get(b"GET / http/1.1")),
    "the preface of HTTP/2": (why.VERSION, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "a method with a colon": (why.START_LINE, _get(b"GE:T / HTTP/1.1")),
    "a method in quotes": (why.NOT_HTTP, _get(b'"GET" / HTTP/1.1')),
    "frames of a WebSocket": (why.NOT_HTTP, b"\x81\x85mask"),
}


def _answer(fields: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return line + b"\r\n" + fields + b"\r\n"


RESPONSES: dict[str, tuple[int, bytes]] = {
    "CL and TE": (why.LENGTH_AND_ENCODING, _answer(b"Content-Length: 4\r\n" + CHUNKED)),
    "two lengths": (why.LENGTH_TWICE, _answer(b"Content-Length: 4\r\nContent-Length: 4\r\n")),
    "a list of lengths": (why.LENGTH_FORM, _answer(b"Content-Length: 4, 4\r\n")),
    "a signed length": (why.LENGTH_FORM, _answer(b"Content-Length: +4\r\n")),
    "a list of encodings": (why.ENCODING_OTHER, _answer(b"Transfer-Encoding: gzip, chunked\r\n")),
    "chunked twice": (why.ENCODING_TWICE, _answer(CHUNKED + CHUNKED)),
    "chunked in HTTP/1.0": (why.ENCODING_IN_1_0, _answer(CHUNKED, b"HTTP/1.0 200 OK")),
    "a folded field": (why.FOLDED, _answer(b"X: a\r\n b\r\n")),
    "a space before the colon": (why.FIELD_NAME, _answer(b"X : a\r\n")),
    "a NUL in a value": (why.FIELD_VALUE, _answer(b"X: \0\r\n")),
    "a bare CR in a value": (why.FIELD_VALUE, _answer(b"X: a\rY: b\r\n")),
    "bare LFs": (why.LINE_END, b"HTTP/1.1 200 OK\nX: a\n\n"),
    "a status of two digits": (why.STATUS, _answer(b"", b"HTTP/1.1 20 OK")),
    "a status of four digits": (why.STATUS, _answer(b"", b"HTTP/1.1 2000 OK")),
    "a status below 100": (why.STATUS, _answer(b"", b"HTTP/1.1 099 OK")),
    "a status that is no number": (why.STATUS, _answer(b"", b"HTTP/1.1 2x0 OK")),
    "no status": (why.VERSION, _answer(b"", b"HTTP/1.1")),
    "a NUL in the reason": (why.START_LINE, _answer(b"", b"HTTP/1.1 200 O\0K")),
    "another protocol": (why.VERSION, _answer(b"", b"ICY 200 OK")),
    "HTTP/2": (why.VERSION, _answer(b"", b"HTTP/2 200 OK")),
    "a switch of protocols": (why.SWITCHED, _answer(b"Upgrade: h2c\r\n", b"HTTP/1.1 101 Switching Protocols")),
    "a request": (why.VERSION, _answer(_HOST, b"GET / HTTP/1.1")),
    "an empty line first": (why.NOT_HTTP, b"\r\n" + _answer(b"")),
}

BODIES: dict[str, tuple[int, bytes]] = {
    "no size": (why.CHUNK_SIZE, b"\r\n"),
    "a size that is no number": (why.CHUNK_SIZE, b"zz\r\n"),
    "a signed size": (why.CHUNK_SIZE, b"+2\r\nab\r\n"),
    "a negative size": (why.CHUNK_SIZE, b"-2\r\nab\r\n"),
    "a size with 0x": (why.CHUNK_SIZE, b"0x2\r\nab\r\n"),
    "a space before the size": (why.CHUNK_SIZE, b" 2\r\nab\r\n"),
    "a space behind the size": (why.CHUNK_SIZE, b"2 \r\nab\r\n"),
    "a tab behind the size": (why.CHUNK_SIZE, b"2\t\r\nab\r\n"),
    "a size with an underscore": (why.CHUNK_SIZE, b"1_0\r\nab\r\n"),
    "a size of 2**63": (why.CHUNK_SIZE, b"8000000000000000\r\n"),
    "a size of 2**64 + 2": (why.CHUNK_SIZE, b"10000000000000002\r\nab\r\n"),
    "a bare LF behind the size": (why.CHUNK_SIZE, b"2\nab\r\n"),
    "a bare CR behind the size": (why.CHUNK_END, b"2\rab\r\n"),
    "two CRs behind the size": (why.CHUNK_END, b"2\r\r\nab\r\n"),
    "only an extension": (why.CHUNK_SIZE, b";x\r\n"),
    "a bare LF in an extension": (why.CHUNK_EXTENSION, b"2;x\nab\r\n"),
    "a bare CR in an extension": (why.CHUNK_END, b"2;x\rab\r\n"),
    "a NUL in an extension": (why.CHUNK_EXTENSION, b"2;\0\r\nab\r\n"),
    "an endless extension": (why.CHUNK_EXTENSION, b"2;" + b"x" * 5000),
    "a longer chunk than its size": (why.CHUNK_END, b"2\r\nabcd\r\n"),
    "a shorter chunk than its size": (why.CHUNK_END, b"4\r\nab\r\n0\r\n\r\n"),
    "a chunk behind a bare LF": (why.CHUNK_END, b"2\r\nab\n0\r\n\r\n"),
    "a last chunk behind a bare LF": (why.CHUNK_SIZE, b"0\n\n"),
    "a trailer that is no field": (why.TRAILER, b"0\r\nGET / HTTP/1.1\r\n\r\n"),
    "a trailer with a space before the colon": (why.TRAILER, b"0\r\nX : a\r\n\r\n"),
    "a folded trailer": (why.TRAILER, b"0\r\nX: a\r\n b\r\n\r\n"),
    "a trailer without a name": (why.TRAILER, b"0\r\n: a\r\n\r\n"),
    "a bare LF in a trailer": (why.TRAILER, b"0\r\nX: a\n\r\n\r\n"),
    "a bare CR in a trailer": (why.TRAILER, b"0\r\nX: a\rb\r\n\r\n"),
    "a NUL in a trailer": (why.TRAILER, b"0\r\nX: \0\r\n\r\n"),
    "an endless trailer": (why.TRAILER, b"0\r\nX: " + b"a" * 20000),
    "a last line that ends in CR": (why.TRAILER, b"0\r\n\rX"),
}
