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

from securellm.accounts.authority import check_address, check_caller
from securellm.accounts.keys import ROLES as KEY_ROLES
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

# Which roles an endpoint asks for. One that is not here is called by nobody.
ROLES = {
    Access.KEY: frozenset(KEY_ROLES),
    Access.OPERATOR: frozenset({"operator", "admin"}),
    Access.ADMIN: frozenset({"admin"}),
}

_log = logging.getLogger("securellm.web")


class EdgeApp(QuartTrio):
    """The application. `draining` is set by whoever stops the server: not ready any more, but still serving."""

    asgi_http_class = EdgeRequest  # type: ignore[assignment]  # narrower: it needs an EdgeApp

    def __init__(self, runtime: Runtime, routes: tuple[Route, ...] | None = None, *, for_browsers: bool = True) -> None:
        """All routes of the gateway's port, or others. Without `for_browsers` no page of another origin is answered."""
        super().__init__("securellm", static_folder=None, template_folder=None)
        self.runtime = runtime
        self.draining = False
        self.trusted_proxies = parse_networks(runtime.config.server.trusted_proxies)
        self.routes = routes or all_routes(metrics_public=runtime.config.telemetry.metrics_public)
        self._for_browsers = for_browsers
        self._hint = "; GET /docs lists the endpoints" if any(route.path == "/docs" for route in self.routes) else ""
        self.documents = write_documents(self.routes)
        # Sizes and times are bounded by the gateway and by the connection; Quart's bounds answer in HTML.
        self.config.update(MAX_CONTENT_LENGTH=None, BODY_TIMEOUT=None, RESPONSE_TIMEOUT=None)
        self.url_map.merge_slashes = False
        for route in self.routes:
            self._add(route)
        self.register_error_handler(SecureLLMError, self._on_refusal)
        self.register_error_handler(HTTPException, self._on_http_exception)

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """The origins whose pages are answered."""
        return self.runtime.config.security.allowed_origins if self._for_browsers else ()

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
            return _refuse(edge, NotFound(f"no such path{self._hint}"))
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
            anonymous = route.access is not Access.ADMIN
            edge.caller = edge.runtime.gateway.authenticate(edge.headers, edge.client_ip, anonymous=anonymous)
            await _check_access(edge, edge.caller, route)
        return await route.view(edge, **parts)

    return view


async def _check_access(edge: EdgeRequest, caller: Caller, route: Route) -> None:
    try:
        _check_rights(caller, route, edge.client_ip)
    except PermissionRefused as error:
        refusal = error
    else:
        return

    async def refuse() -> NoReturn:
        raise refusal

    if route.recorded is not None:
        await edge.runtime.gateway.record(edge.call(route.recorded), caller, refuse)
    await refuse()


def _check_rights(caller: Caller, route: Route, client_ip: str) -> None:
    """Raises PermissionRefused."""
    roles = ROLES.get(route.access, frozenset())
    if caller.role not in roles:
        raise PermissionRefused(f"this needs a key whose role is {' or '.join(sorted(roles, reverse=True))}")
    if route.recorded is not None:
        check_caller(caller, route.recorded, client_ip)
    else:
        check_address(caller, client_ip)


def _preflight(edge: EdgeRequest) -> Response:
    if cors.allowed_origin(edge.headers, edge.app.allowed_origins) is None:
        raise PermissionRefused("OPTIONS is answered for the origins in security.allowed_origins only")
    return empty(204, cors.preflight_headers(edge.headers))


def _refuse(edge: EdgeRequest, error: SecureLLMError, headers: Headers | None = None) -> Response:
    answer = edge.refusal(error)
    return answer_with(answer.body, answer.status, [*answer.headers, *(headers or [])])
