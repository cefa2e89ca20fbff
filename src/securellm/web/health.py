"""How it goes: health for people, readiness and liveness for machines, metrics. Read from memory."""

import time
from typing import TYPE_CHECKING, Any

from securellm import __version__
from securellm.errors import InvalidKey, NotAvailable, StoreUnavailable
from securellm.web import schemas
from securellm.web.answers import NOT_STORED, empty, json_answer, whole
from securellm.web.asgi import EdgeRequest
from securellm.web.condition import Condition, condition_of
from securellm.web.routes import Access, Route

if TYPE_CHECKING:
    from quart.wrappers import Response

_METRICS = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")


async def show_health(edge: EdgeRequest) -> "Response":
    """The state of the whole; with a good key, of every part."""
    condition = condition_of(edge.runtime)
    content: dict[str, Any] = {
        "status": condition.status,
        "version": __version__,
        "uptime_seconds": int(time.monotonic() - edge.runtime.started_s),
    }
    if _has_key(edge):
        content |= {
            "providers": condition.providers,
            "database": condition.database,
            "redis": condition.redis,
            "audit": condition.audit,
            "workers": await edge.runtime.workers(),
        }
    return json_answer(content)


async def show_ready(edge: EdgeRequest) -> "Response":
    """200 when requests can be served here, 503 when not, or soon not."""
    return empty(200 if _is_ready(edge, condition_of(edge.runtime)) else 503)


async def show_live(edge: EdgeRequest) -> "Response":
    """200: the process answers."""
    return empty(200)


async def show_metrics(edge: EdgeRequest) -> "Response":
    """Everything that is counted, as Prometheus reads it."""
    if not edge.runtime.config.telemetry.metrics_enabled:
        raise NotAvailable("metrics are switched off (telemetry.metrics_enabled)")
    text = await edge.runtime.expose_metrics()
    return whole(text, 200, [_METRICS, NOT_STORED])


def _has_key(edge: EdgeRequest) -> bool:
    try:
        edge.runtime.gateway.identify(edge.headers)
    except (InvalidKey, StoreUnavailable):
        return False
    return True


def _is_ready(edge: EdgeRequest, condition: Condition) -> bool:
    return condition.ready and not edge.app.draining and not edge.runtime.gateway.stopping


def _pair(path: str, alias: str, **fields: Any) -> tuple[Route, Route]:
    return Route(path=path, **fields), Route(path=alias, **fields)


def routes(*, metrics_public: bool) -> tuple[Route, ...]:
    """The endpoints; who may read the metrics is a setting."""
    probe: dict[str, Any] = {"methods": ("GET",), "access": Access.PUBLIC, "tag": "Operation", "content_types": ()}
    return (
        Route(
            path="/api/health",
            methods=("GET",),
            access=Access.PUBLIC,
            view=show_health,
            summary="How it goes; every part only with a key",
            tag="Operation",
            answers={"200": schemas.HEALTH},
        ),
        *_pair(
            "/api/ready",
            "/readyz",
            view=show_ready,
            summary="200 when requests can be served, else 503; no body",
            answers={"200": None, "503": None},
            **probe,
        ),
        Route(
            path="/livez", view=show_live, summary="200: the process answers; no body", answers={"200": None}, **probe
        ),
        *_pair(
            "/api/metrics",
            "/metrics",
            methods=("GET",),
            access=Access.PUBLIC if metrics_public else Access.OPERATOR,
            view=show_metrics,
            summary="Metrics for Prometheus",
            tag="Operation",
            answers={"200": None},
            content_types=("text/plain",),
        ),
    )
