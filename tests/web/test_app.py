"""The list of endpoints as it is served: who may call, what an error looks like, what each answer holds."""

import json
import re
import uuid

import msgspec
import pytest
import trio

from rig.edge import EdgeRuntime, edge_config, open_edge
from rig.raw_client import Response, fetch, open_client
from securellm.config.tree import Security, Telemetry
from securellm.upstream.breaker import BreakerState
from securellm.web.app import EdgeApp, all_routes
from securellm.web.routes import Access

KEY = {"authorization": "Bearer good"}
OPERATOR = {"authorization": "Bearer operator"}
ROUTES = all_routes(metrics_public=False)
PROTECTED = [route for route in ROUTES if route.access is not Access.PUBLIC]


def _path(rule: str, part: str = "x") -> str:
    """A path that fits the rule, with `part` in the place of each of its parts."""
    return re.sub(r"<(?:path:)?\w+>", part, rule)


def test_every_endpoint_says_who_may_call_it() -> None:
    """The URL map holds exactly the routes of the list, each with an access class (guarantee 7)."""
    app = EdgeApp(EdgeRuntime(edge_config()))
    access = {route.name: route.access for route in app.routes}
    assert len(access) == len(app.routes), "two routes share a name"
    rules = list(app.url_map.iter_rules())
    assert {rule.endpoint for rule in rules} == set(access)
    assert all(isinstance(access[rule.endpoint], Access) for rule in rules)


def test_what_asks_a_provider_needs_a_key() -> None:
    """No endpoint that reaches a provider is public, and only they leave the check to the gateway."""
    assert {route.path for route in ROUTES if route.asks_provider} == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
    }
    assert all(route.access is Access.KEY for route in ROUTES if route.asks_provider)


def test_what_is_public() -> None:
    """The public endpoints, all of them: a new one is added here on purpose."""
    assert {route.path for route in ROUTES if route.access is Access.PUBLIC and route.shown} == {
        "/",
        "/docs",
        "/openapi.json",
        "/api/health",
        "/api/ready",
        "/readyz",
        "/livez",
    }


async def test_protected_endpoints_refuse_strangers() -> None:
    """Without a good key every protected endpoint is a 401 in its dialect, whatever the method and body."""
    with trio.fail_after(20):
        async with open_edge() as edge:
            for route in PROTECTED:
                for headers in ({}, {"authorization": "Bearer bad"}, {"x-api-key": "bad"}):
                    for method in route.methods:
                        body = b"{}" if method == "POST" else None
                        response = await fetch(edge.url, method, _path(route.path), body, headers)
                        assert response.status == 401, (method, route.path)
                        assert _code(response) == "invalid_api_key"
            assert edge.runtime.synced == 0


async def test_operators_endpoints_refuse_users() -> None:
    """A good key without the role is a 403."""
    with trio.fail_after(20):
        async with open_edge() as edge:
            for route in PROTECTED:
                if route.access is Access.OPERATOR:
                    response = await fetch(edge.url, route.methods[0], route.path, None, KEY)
                    assert (response.status, _code(response)) == (403, "permission_denied"), route.path
            assert edge.runtime.synced == 0


def _code(response: Response) -> str:
    body = response.json()
    if body.get("type") == "error":
        assert set(body) == {"type", "error", "request_id"}
        assert response.header("request-id") == response.header("x-request-id") == body["request_id"]
        return str(body["error"]["code"])
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return str(body["error"]["code"])


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("GET", "/nope", 404, "not_found"),
        ("GET", "/v1/models/", 404, "not_found"),
        ("GET", "/livez/", 404, "not_found"),
        ("GET", "/v1/messages/nope", 404, "not_found"),
        ("GET", "/admin/keys", 404, "not_found"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("GET", "/v1/messages", 405, "method_not_allowed"),
        ("BREW", "/", 405, "method_not_allowed"),
        ("POST", "/v1/audio/speech", 404, "not_available"),
        ("POST", "/v1/images/generations", 404, "not_available"),
        ("GET", "/v1/batches", 404, "not_available"),
        ("POST", "/v1/messages/batches", 404, "not_available"),
        ("GET", "/v1/files/file-1/content", 404, "not_available"),
        ("POST", "/v1/moderations", 404, "not_available"),
        ("GET", "/v1/realtime", 404, "not_available"),
        ("POST", "/v1/fine_tuning/jobs", 404, "not_available"),
        ("POST", "/v1/threads/t/runs", 404, "not_available"),
        ("POST", "/v1/assistants", 404, "not_available"),
        ("GET", "/v1/responses/resp_1", 404, "not_available"),
        ("GET", "/api/admin", 404, "not_available"),
        ("POST", "/api/admin/keys", 404, "not_available"),
    ],
)
async def test_refusals(method: str, target: str, status: int, code: str) -> None:
    """Every error of the edge is JSON in the dialect of its path, with our id; 405 says what is allowed."""
    with trio.fail_after(10):
        async with open_edge() as edge:
            response = await fetch(edge.url, method, target)
            assert (response.status, _code(response)) == (status, code)
            assert response.header("content-type") == "application/json"
            assert uuid.UUID(response.header("x-request-id")).version == 7
            assert response.header("x-securellm-error-source") == "gateway"
            assert response.json().get("type", "openai") == ("error" if target.startswith("/v1/messages") else "openai")
            assert (response.header("allow") is not None) == (status == 405)


async def test_the_front_page() -> None:
    """`/` has the shape that scripts read, and needs no key."""
    with trio.fail_after(10):
        async with open_edge() as edge:
            body = (await fetch(edge.url, "GET", "/")).json()
            assert set(body) == {"name", "version", "status", "documentation"}
            assert (body["name"], body["status"], body["documentation"]) == ("SecureLLM API Server", "running", "/docs")


async def test_the_documents_are_whole() -> None:
    """Page and OpenAPI document name every shown endpoint; the page loads nothing from anywhere."""
    with trio.fail_after(10):
        async with open_edge() as edge:
            page = (await fetch(edge.url, "GET", "/docs")).body.decode("utf-8")
            document = (await fetch(edge.url, "GET", "/openapi.json")).json()
    shown = {re.sub(r"<(?:path:)?(\w+)>", r"{\1}", route.path): route for route in ROUTES if route.shown}
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) == set(shown)
    for path, route in shown.items():
        assert f"<code>{path}</code>" in page
        assert set(document["paths"][path]) == {method.lower() for method in route.methods}
        operation = document["paths"][path][route.methods[0].lower()]
        assert ("security" in operation) == (route.access is not Access.PUBLIC)
        assert ("requestBody" in operation) == (route.schema is not None)
    for loading in ("src=", "<link", "http:", "https:", "<script", "@import"):
        assert loading not in page


async def test_health_without_and_with_a_key() -> None:
    """Strangers see status, version and uptime; a good key sees every part, in the contract's shape."""
    with trio.fail_after(10):
        async with open_edge() as edge:
            for headers in ({}, {"authorization": "Bearer bad"}):
                assert set((await fetch(edge.url, "GET", "/api/health", None, headers)).json()) == {
                    "status",
                    "version",
                    "uptime_seconds",
                }
            body = (await fetch(edge.url, "GET", "/api/health", None, KEY)).json()
            assert body["status"] == "healthy"
            assert body["providers"] == [
                {
                    "name": "openai",
                    "status": "healthy",
                    "circuit_breaker": "closed",
                    "latency_ms": 12.5,
                    "last_error": None,
                }
            ]
            assert body["database"] == {"status": "healthy", "latency_ms": 12.5, "error": None}
            assert body["redis"] == {"status": "disabled", "latency_ms": None, "error": None}


async def test_health_follows_the_parts() -> None:
    """A broken provider among others degrades; with none left, or without the store, the whole is unhealthy."""
    with trio.fail_after(10):
        async with open_edge() as edge:
            runtime = edge.runtime
            runtime.origins.figures = msgspec.structs.replace(runtime.origins.figures, state=BreakerState.HALF_OPEN)
            assert (await fetch(edge.url, "GET", "/api/health")).json()["status"] == "degraded"
            runtime.origins.figures = msgspec.structs.replace(runtime.origins.figures, state=BreakerState.OPEN)
            assert (await fetch(edge.url, "GET", "/api/health")).json()["status"] == "unhealthy"
            assert (await fetch(edge.url, "GET", "/readyz")).status == 200  # a provider that fails is no fault of ours
            runtime.accounts.figures = msgspec.structs.replace(runtime.accounts.figures, fresh=False)
            assert (await fetch(edge.url, "GET", "/api/health")).json()["status"] == "unhealthy"
            assert (await fetch(edge.url, "GET", "/readyz")).status == 503
            assert (await fetch(edge.url, "GET", "/livez")).status == 200


async def test_ready_needs_a_provider() -> None:
    """No provider: not ready, both spellings, without a body."""
    with trio.fail_after(10):
        async with open_edge() as edge:
            edge.runtime.providers.clear()
            for target in ("/readyz", "/api/ready"):
                response = await fetch(edge.url, "GET", target)
                assert (response.status, response.body) == (503, b"")


async def test_metrics() -> None:
    """An operator reads them, under both paths; with metrics_public everybody does; switched off, nobody."""
    with trio.fail_after(10):
        async with open_edge() as edge:
            for target in ("/metrics", "/api/metrics"):
                response = await fetch(edge.url, "GET", target, None, OPERATOR)
                assert response.status == 200
                assert "# TYPE securellm_circuit_breaker_state gauge" in response.body.decode()
        public = msgspec.structs.replace(edge_config(), telemetry=Telemetry(metrics_public=True))
        async with open_edge(public) as edge:
            assert (await fetch(edge.url, "GET", "/metrics")).status == 200
        off = msgspec.structs.replace(edge_config(), telemetry=Telemetry(metrics_enabled=False))
        async with open_edge(off) as edge:
            assert (await fetch(edge.url, "GET", "/metrics", None, OPERATOR)).status == 404


async def test_models_in_both_shapes() -> None:
    """OpenAI's list by default, Anthropic's with the header `anthropic-version`."""
    with trio.fail_after(10):
        async with open_edge() as edge:
            body = (await fetch(edge.url, "GET", "/v1/models", None, KEY)).json()
            assert body["object"] == "list"
            assert [model["id"] for model in body["data"]] == ["openai/gpt-4o", "openrouter/meta/llama-3:8b"]
            assert body["data"][0]["owned_by"] == "openai"
            anthropic = KEY | {"anthropic-version": "2023-06-01"}
            body = (await fetch(edge.url, "GET", "/v1/models?limit=1000", None, anthropic)).json()
            assert (body["has_more"], body["first_id"], body["data"][0]["type"]) == (False, "openai/gpt-4o", "model")


@pytest.mark.parametrize("spelling", ["openrouter/meta/llama-3:8b", "openrouter%2Fmeta%2Fllama-3%3A8b"])
async def test_one_model(spelling: str) -> None:
    """A model's id is found with its slashes as they are and escaped."""
    with trio.fail_after(10):
        async with open_edge() as edge:
            response = await fetch(edge.url, "GET", f"/v1/models/{spelling}", None, KEY)
            assert (response.status, response.json()["id"]) == (200, "openrouter/meta/llama-3:8b")


async def test_unknown_models() -> None:
    """An unknown id is a 404 in the shape of the caller's API, and does not echo what is not printable."""
    with trio.fail_after(10):
        async with open_edge() as edge:
            for target in ("/v1/models/nope", "/v1/models/%C3%BC"):
                response = await fetch(edge.url, "GET", target, None, KEY)
                assert (response.status, _code(response)) == (404, "model_not_found")
            anthropic = KEY | {"anthropic-version": "2023-06-01"}
            response = await fetch(edge.url, "GET", "/v1/models/nope", None, anthropic)
            assert response.json()["type"] == "error"


async def test_sync_asks_the_providers() -> None:
    """An operator's POST has the providers asked, and tells what each said."""
    with trio.fail_after(10):
        async with open_edge() as edge:
            response = await fetch(edge.url, "POST", "/api/models/sync", None, OPERATOR)
            assert response.json() == {"providers": [{"provider": "openai", "models": 2, "error": None}]}
            assert edge.runtime.synced == 1


async def test_cross_origin_requests_are_refused_by_default() -> None:
    """Without allowed origins OPTIONS is a 403 and no answer carries a header that a browser would take for leave."""
    origin = {"origin": "https://page.test"}
    with trio.fail_after(10):
        async with open_edge() as edge:
            for method, target, headers in (
                ("OPTIONS", "/v1/chat/completions", {}),
                ("OPTIONS", "/v1/chat/completions", {"access-control-request-method": "POST"}),
                ("GET", "/v1/models", KEY),
            ):
                response = await fetch(edge.url, method, target, None, origin | headers)
                assert response.status == (403 if method == "OPTIONS" else 200)
                assert not [name for name, _ in response.headers if name.startswith("access-control-")]


async def test_cross_origin_requests_of_a_listed_origin() -> None:
    """A listed origin gets its preflight without a key, and the headers on every answer, errors included."""
    config = msgspec.structs.replace(edge_config(), security=Security(allowed_origins=("https://page.test",)))
    with trio.fail_after(10):
        async with open_edge(config) as edge:
            asked = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
            listed, other = {"origin": "https://page.test"}, {"origin": "https://other.test"}
            response = await fetch(edge.url, "OPTIONS", "/v1/messages", None, listed | asked)
            assert (response.status, response.body) == (204, b"")
            assert response.header("access-control-allow-origin") == "https://page.test"
            assert "POST" in (response.header("access-control-allow-methods") or "")
            assert response.header("access-control-allow-headers") == "x-api-key"
            for target, headers, status in (("/v1/models", KEY, 200), ("/v1/models", {}, 401), ("/nope", {}, 404)):
                response = await fetch(edge.url, "GET", target, None, listed | headers)
                assert response.status == status
                assert response.header("access-control-allow-origin") == "https://page.test"
                assert response.header("vary") == "origin"
            assert (await fetch(edge.url, "OPTIONS", "/v1/messages", None, other | asked)).status == 403
            assert (await fetch(edge.url, "GET", "/", None, other)).header("access-control-allow-origin") is None


async def test_query_strings_change_no_route() -> None:
    """`?beta=true`, which Anthropic's SDK sends, is taken, and the gateway sees it in the target."""
    with trio.fail_after(10):
        async with open_edge() as edge:
            assert (await fetch(edge.url, "POST", "/v1/messages?beta=true", b"{}", KEY)).status == 200
            assert edge.gateway.permits[0].call.target == "/v1/messages?beta=true"


async def test_unread_bodies_of_small_requests_do_not_end_the_connection() -> None:
    """An endpoint that does not look at its body leaves the connection in step when all of it has arrived."""
    with trio.fail_after(10):
        async with open_edge() as edge, open_client(edge.url) as client:
            for _ in range(3):
                await client.request("POST", "/api/models/sync", b'{"a":1}', OPERATOR)
                response = await client.read_response()
                assert (response.status, response.header("connection")) == (200, None)
            await client.request("POST", "/v1/chat/completions", json.dumps({"a": 1}).encode())
            assert (await client.read_response()).status == 401
            await client.request("GET", "/livez")
            assert (await client.read_response()).status == 200
