"""The front page for people and machines: what this is, the endpoints as a page and as an OpenAPI document."""

from typing import TYPE_CHECKING

from securellm import __version__
from securellm.web import schemas
from securellm.web.answers import JSON, json_answer, whole
from securellm.web.asgi import EdgeRequest
from securellm.web.routes import Access, Route

if TYPE_CHECKING:
    from quart.wrappers import Response

_HTML = (b"content-type", b"text/html; charset=utf-8")
_NO_SCRIPTS = (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")


async def show_root(edge: EdgeRequest) -> "Response":
    """The name, the version, and where to read on."""
    return json_answer(
        {"name": "SecureLLM API Server", "version": __version__, "status": "running", "documentation": "/docs"}
    )


async def show_docs(edge: EdgeRequest) -> "Response":
    """The endpoints as a page."""
    return whole(edge.app.documents.page, 200, [_HTML, _NO_SCRIPTS])


async def show_openapi(edge: EdgeRequest) -> "Response":
    """The endpoints as an OpenAPI 3.1 document."""
    return whole(edge.app.documents.openapi, 200, [JSON])


ROUTES = (
    Route(
        path="/",
        methods=("GET",),
        access=Access.PUBLIC,
        view=show_root,
        summary="What this is",
        tag="About",
        answers={"200": schemas.ROOT},
    ),
    Route(
        path="/docs",
        methods=("GET",),
        access=Access.PUBLIC,
        view=show_docs,
        summary="This page",
        tag="About",
        answers={"200": None},
        content_types=("text/html",),
    ),
    Route(
        path="/openapi.json",
        methods=("GET",),
        access=Access.PUBLIC,
        view=show_openapi,
        summary="This list as an OpenAPI 3.1 document",
        tag="About",
        answers={"200": schemas.OBJECT},
    ),
)
