"""The one list of endpoints: path, methods, who may call, what goes in and out. The rest of the edge is driven by it.

Who may call belongs to the matched endpoint itself, never to a path that somebody compares: a route cannot be made
without it. The OpenAPI document and the page at `/docs` are written from the same list, so that they cannot differ.
"""

import enum
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from securellm.chat import Endpoint

if TYPE_CHECKING:
    from quart.wrappers import Response

View = Callable[..., Awaitable["Response"]]  # (asgi.EdgeRequest, **parts of the path)
Schema = dict[str, Any]  # JSON Schema, as OpenAPI 3.1 has it


class Access(enum.Enum):
    """Who may call an endpoint."""

    PUBLIC = "public"  # anybody
    KEY = "key"  # whoever has a key
    OPERATOR = "operator"  # a key whose role is operator or admin
    ADMIN = "admin"  # a key whose role is admin, whatever the configuration says of keys


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint. `schema` names the component that the request body must fit; None when there is no body."""

    path: str  # werkzeug's rule
    methods: tuple[str, ...]
    access: Access
    view: View
    summary: str
    tag: str
    schema: Schema | None = None
    answers: dict[str, Schema | None] = msgspec.field(default_factory=dict)  # status -> JSON schema, None for no JSON
    content_types: tuple[str, ...] = ("application/json",)  # of a good answer
    shown: bool = True  # in the documents
    recorded: Endpoint | None = None  # its requests leave their pair under this name, also those that are refused
    asks_provider: bool = False  # the gateway checks the key itself, from the head, before it reads the body

    @property
    def name(self) -> str:
        """The endpoint's name in the URL map."""
        return f"{'|'.join(self.methods)} {self.path}"
