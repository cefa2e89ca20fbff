"""What a request head must not look like, beyond what h11 refuses: what two parsers read differently. Pure.

h11 folds obsolete line folding, takes bare line feeds, drops the second of two equal Content-Length fields and lets
Transfer-Encoding win over Content-Length. Each of these is how a request is smuggled past a proxy in front of us, and
no honest client sends one, so the raw bytes are looked at again and the connection is closed.

Source: RFC 9112 sections 2.2, 5.2, 6.1 and 6.3.
"""

import re

from securellm.errors import BadRequest, HeadTooLarge

_HOST = re.compile(rb"[A-Za-z0-9.\-_~%!$&'()*+,;=:\[\]]*")  # RFC 3986 host and port; no user, no path, no fragment


def check_head(head: bytes, *, max_head_bytes: int) -> None:
    """Check the raw bytes of a head that h11 accepted, blank line included. Raises BadRequest or HeadTooLarge."""
    if len(head) > max_head_bytes:
        raise HeadTooLarge(
            f"the request head has {len(head)} bytes, allowed are {max_head_bytes} (server.max_head_bytes)"
        )
    if head.count(b"\n") != head.count(b"\r\n") or head.count(b"\r") != head.count(b"\r\n"):
        raise BadRequest("a line of the request head does not end in CR LF")
    if b"\0" in head:
        raise BadRequest("the request head holds a NUL byte")
    request_line, *lines = head.split(b"\r\n")
    if any(line[:1] in (b" ", b"\t") for line in lines):
        raise BadRequest("a header field is folded over several lines")
    _check_request_line(request_line)
    fields = [
        (name.lower(), value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines if line)
    ]
    _check_framing([name for name, _ in fields])
    if not all(_HOST.fullmatch(value) for name, value in fields if name == b"host"):
        raise BadRequest("the Host field is not a host with an optional port")


def _check_request_line(line: bytes) -> None:
    method, _, version = line.partition(b" ")[0], *line.rpartition(b" ")[1:]
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise BadRequest("the request is not HTTP/1.0 or HTTP/1.1; HTTP/2 is not spoken here")
    if method == b"CONNECT":
        raise BadRequest("CONNECT is refused: this is not a tunnel")


def _check_framing(names: list[bytes]) -> None:
    if names.count(b"host") > 1:
        raise BadRequest("the Host field is there more than once")
    if names.count(b"content-length") > 1:
        raise BadRequest("the Content-Length field is there more than once")
    if names.count(b"transfer-encoding") > 1:
        raise BadRequest("the Transfer-Encoding field is there more than once")
    if b"content-length" in names and b"transfer-encoding" in names:
        raise BadRequest("Content-Length and Transfer-Encoding are both there; only one can be meant")
