"""The Quart-Trio application of the reference lane: the list of routes, who may call them, and JSON for every error.

It is plain ASGI, so that tests can call it without a socket, and it cannot be made without a runtime.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from quart import request
from quart.wrappers import Response
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WrongMethod

from securellm.chat import Caller, Headers
from securellm.errors import (
    BadRequest,
    InternalError,
    MethodNotAllowed,
    NotAvailable,
    NotFound,
    PermissionRefused,
    SecureLLMError,
)
from securellm.telemetry.faults import describe_fault
from securellm.web import admin, anthropic, cors, health, later, openai, root
from securellm.web.answers import answer_with, empty
from securellm.web.asgi import EDGE, EdgeRequest
from securellm.web.caller_address import parse_networks
from securellm.web.documents import write_documents
from securellm.web.routes import Access, Route
from securellm.web.seam import Runtime

OPERATORS = frozenset({"operator", "admin"})

_log = logging.getLogger("securellm.web")


class EdgeApp(QuartTrio):
    """The application. `draining` is set by whoever stops the server: not ready any more, but still serving."""

    asgi_http_class = EdgeRequest  # type: ignore[assignment]  # narrower: it needs an EdgeApp

    def __init__(self, runtime: Runtime) -> None:
        super().__init__("securellm", static_folder=None, template_folder=None)
        self.runtime = runtime
        self.draining = False
        self.trusted_proxies = parse_networks(runtime.config.server.trusted_proxies)
        self.routes = all_routes(metrics_public=runtime.config.telemetry.metrics_public)
        self.documents = write_documents(self.routes)
        # Sizes and times are bounded by the gateway and by the connection; Quart's bounds answer in HTML.
        self.config.update(MAX_CONTENT_LENGTH=None, BODY_TIMEOUT=None, RESPONSE_TIMEOUT=None)
        self.url_map.merge_slashes = False
        for route in self.routes:
            self._add(route)
        self.register_error_handler(SecureLLMError, self._on_refusal)
        self.register_error_handler(HTTPException, self._on_http_exception)

    def log_exception(self, *details: Any) -> None:
        """A defect in a view, without the data it worked on. (Quart 0.22 passes the error, 0.23 a context first.)"""
        kind, error, _ = details[-1]
        _log.error("a view failed: %s", describe_fault(error) if error is not None else kind)

    def _add(self, route: Route) -> None:
        self.add_url_rule(
            route.path,
            endpoint=route.name,
            view_func=_guarded(route),
            methods=[*route.methods, "OPTIONS"],
            provide_automatic_options=False,
        )

    async def _on_refusal(self, error: SecureLLMError) -> Response:
        return _refuse(_edge(), error)

    async def _on_http_exception(self, error: HTTPException) -> Response:
        """What Quart and werkzeug raise of their own: no route, the wrong method, a defect."""
        edge = _edge()
        if isinstance(error, WrongMethod):
            methods = sorted(set(error.valid_methods or ()) - {"OPTIONS"})
            allow: Headers = [(b"allow", ", ".join(methods).encode("ascii"))]
            wrong = MethodNotAllowed(f"{request.method} is not a method of this path; it has {', '.join(methods)}")
            return _refuse(edge, wrong, allow)
        if error.code == 404:
            return _refuse(edge, NotFound("no such path; GET /docs lists the endpoints"))
        if error.code is not None and 400 <= error.code < 500:
            return _refuse(edge, BadRequest("the request cannot be understood"))
        return _refuse(edge, InternalError("internal error; the log has it under the request's id"))


def all_routes(*, metrics_public: bool) -> tuple[Route, ...]:
    """Every endpoint there is."""
    return (
        *openai.ROUTES,
        *anthropic.ROUTES,
        *health.routes(metrics_public=metrics_public),
        *admin.ROUTES,
        *root.ROUTES,
        *later.ROUTES,
    )


def _edge() -> EdgeRequest:
    edge: EdgeRequest = request.scope[EDGE]  # type: ignore[literal-required]  # ours, beside what ASGI names
    return edge


def _guarded(route: Route) -> Callable[..., Awaitable[Response]]:
    """The view of a route behind what the route says about access. It belongs to the endpoint that was matched."""

    async def view(**parts: Any) -> Response:
        edge = _edge()
        if request.method == "OPTIONS":
            return _preflight(edge)
        if "websocket" in request.headers.get("Upgrade", "").lower():
            raise NotAvailable("websockets: not available in this version of SecureLLM Bridge")
        if route.access is not Access.PUBLIC and not route.asks_provider:
            edge.caller = edge.runtime.gateway.authenticate(edge.headers, edge.client_ip)
            if route.access is Access.OPERATOR and edge.caller.role not in OPERATORS:
                await _refuse_role(edge, edge.caller, route)
        return await route.view(edge, **parts)

    return view


async def _refuse_role(edge: EdgeRequest, caller: Caller, route: Route) -> NoReturn:
    async def refuse() -> NoReturn:
        raise PermissionRefused("this needs a key whose role is operator or admin")

    if route.recorded is not None:
        await edge.runtime.gateway.record(edge.call(route.recorded), caller, refuse)
    await refuse()


def _preflight(edge: EdgeRequest) -> Response:
    if cors.allowed_origin(edge.headers, edge.runtime.config.security.allowed_origins) is None:
        raise PermissionRefused("OPTIONS is answered for the origins in security.allowed_origins only")
    return empty(204, cors.preflight_headers(edge.headers))


def _refuse(edge: EdgeRequest, error: SecureLLMError, headers: Headers | None = None) -> Response:
    answer = edge.refusal(error)
    return answer_with(answer.body, answer.status, [*answer.headers, *(headers or [])])
