"""Cross-origin requests: which headers an answer carries for a browser's page, if any. Pure.

Only origins that the operator has listed are ever answered; there is no `*`, because answers hold what a key may see.
"""

from securellm.chat import Headers

_METHODS = b"GET, HEAD, POST, OPTIONS"
_EXPOSED = (
    b"x-request-id, request-id, retry-after, x-securellm-provider, x-securellm-model, x-securellm-attempts, "
    b"x-securellm-cache, "
    b"x-securellm-error-source, x-securellm-dropped, x-securellm-context-truncated, x-securellm-usage-source"
)
_MAX_AGE_S = b"600"  # how long a browser remembers a preflight; browsers cap it at minutes themselves


def allowed_origin(request_headers: Headers, allowed_origins: tuple[str, ...]) -> bytes | None:
    """The request's Origin if it is listed, else None."""
    origins = [value for name, value in request_headers if name == b"origin"]
    if len(origins) == 1 and origins[0].decode("latin-1") in allowed_origins:
        return origins[0]
    return None


def answer_headers(origin: bytes) -> Headers:
    """What every answer to a listed origin carries."""
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", _EXPOSED),
        (b"vary", b"origin"),
    ]


def preflight_headers(request_headers: Headers) -> Headers:
    """What the answer to a listed origin's OPTIONS carries besides: it may send the headers it asks for."""
    asked = b", ".join(value for name, value in request_headers if name == b"access-control-request-headers")
    return [
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", asked or b"authorization, content-type"),
        (b"access-control-max-age", _MAX_AGE_S),
    ]
