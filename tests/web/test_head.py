"""The second look at raw heads."""

import pytest

from securellm.errors import BadRequest, HeadTooLarge
from securellm.web.head import check_head

GOOD = b"POST /v1/messages HTTP/1.1\r\nHost: a:80\r\nContent-Length: 3\r\nX-Empty:\r\n\r\n"

BAD = {
    "both framings": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    "both, other case": b"POST / HTTP/1.1\r\nHost: a\r\nCONTENT-length: 3\r\ntransfer-ENCODING: chunked\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
    "two encodings": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
    "folded": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
    "folded by a tab": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n",
    "bare line feed": b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "bare carriage return": b"GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n",
    "nul": b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
    "CONNECT": b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "fragment in host": b"GET / HTTP/1.1\r\nHost: x/#@y\r\n\r\n",
    "space in host": b"GET / HTTP/1.1\r\nHost: x y\r\n\r\n",
}


def test_a_head_without_an_end() -> None:
    """What is no complete head is refused, too."""
    with pytest.raises(BadRequest):
        check_head(GOOD[:-2], max_head_bytes=1000)


def test_a_good_head_passes() -> None:
    """An ordinary head is not refused."""
    check_head(GOOD, max_head_bytes=len(GOOD))


def test_a_head_over_the_bound() -> None:
    """One byte over the bound is HeadTooLarge, whatever else it is."""
    with pytest.raises(HeadTooLarge, match=rf"over {len(GOOD) - 1} bytes .*server\.max_head_bytes"):
        check_head(GOOD, max_head_bytes=len(GOOD) - 1)


@pytest.mark.parametrize("head", BAD.values(), ids=BAD.keys())
def test_ambiguous_heads(head: bytes) -> None:
    """Every head that two parsers could read differently is refused."""
    with pytest.raises(BadRequest):
        check_head(head, max_head_bytes=1000)
