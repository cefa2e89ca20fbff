"""What a request head must not look like, beyond what h11 refuses: what two parsers read differently. Pure.

h11 folds obsolete line folding, takes bare line feeds, drops the second of two equal Content-Length fields and lets
Transfer-Encoding win over Content-Length. Each of these is how a request is smuggled past a proxy in front of us, and
no honest client sends one, so the raw bytes are looked at again, by the definition that the express lane has, too
(`_fast/http1_py.py`), and the connection is closed.
"""

from securellm._fast import http1
from securellm.errors import BadRequest


def check_head(head: bytes, *, max_head_bytes: int) -> http1.RequestHead:
    """What the raw bytes of a head say that h11 accepted, blank line included.

    Raises BadRequest, InvalidTarget or HeadTooLarge.
    """
    parsed = http1.parse_request(head, 0, max_head_bytes)
    if parsed is None:
        raise BadRequest("the request head has no end that everybody would see")
    return parsed[0]
