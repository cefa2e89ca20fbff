"""The list of endpoints as an OpenAPI 3.1 document and as a page that needs nothing from elsewhere."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from securellm import __version__
from securellm.web import schemas
from securellm.web.routes import Access, Route, Schema

# As html.escape does, whose module brings a table of every named character, of half a megabyte.
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})
_PARAMETER = re.compile(r"<(?:path:)?(\w+)>")
_ACCESS = {
    Access.PUBLIC: "anybody",
    Access.KEY: "a key",
    Access.OPERATOR: "a key with the role operator or admin",
    Access.ADMIN: "a key with the role admin",
}
_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #ddd;
vertical-align:top}code{font-family:ui-monospace,monospace;font-size:.95em}"""


class Documents(msgspec.Struct, frozen=True):
    """Both documents, encoded."""

    openapi: bytes
    page: bytes


def write_documents(routes: Iterable[Route]) -> Documents:
    """Both documents for the routes that are shown."""
    shown = [route for route in routes if route.shown]
    return Documents(msgspec.json.encode(_openapi(shown)), _page(shown).encode("utf-8"))


def _openapi(routes: list[Route]) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operations = paths.setdefault(_PARAMETER.sub(r"{\1}", route.path), {})
        operations |= {method.lower(): _operation(route, method) for method in route.methods}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "SecureLLM API Server",
            "version": __version__,
            "description": "One OpenAI- and Anthropic-compatible endpoint in front of several providers.",
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "schemas": {"OpenAIError": schemas.OPENAI_ERROR, "AnthropicError": schemas.ANTHROPIC_ERROR},
        },
    }


def _operation(route: Route, method: str) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}_{route.path}").strip("_"),
        "summary": route.summary,
        "tags": [route.tag],
        "responses": {
            status: _answer(schema, route.content_types if status == "200" else ("application/json",))
            for status, schema in route.answers.items()
        }
        | {"default": _answer(_error_schema(route), ("application/json",), "An error")},
    }
    if route.access is not Access.PUBLIC:
        operation["security"] = [{"bearer": []}, {"apiKey": []}]
    if route.schema is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": route.schema}}}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(route.path)
    ]
    if parameters:
        operation["parameters"] = parameters
    return operation


def _answer(schema: Schema | None, content_types: tuple[str, ...], description: str = "") -> dict[str, Any]:
    answer: dict[str, Any] = {"description": description or "As asked"}
    content = {
        name: {"schema": schema if name == "application/json" and schema is not None else {"type": "string"}}
        for name in content_types
    }
    if content and (schema is not None or content_types != ("application/json",)):
        answer["content"] = content
    return answer


def _error_schema(route: Route) -> Schema:
    if route.path.startswith("/v1/messages"):
        return {"$ref": "#/components/schemas/AnthropicError"}
    if route.path.startswith("/v1/models"):
        return schemas.ANY_ERROR
    return {"$ref": "#/components/schemas/OpenAIError"}


def _page(routes: list[Route]) -> str:
    rows = "".join(
        f"<tr><td><code>{'|'.join(route.methods)}</code></td><td><code>{_readable(route.path).translate(_ESCAPES)}</code></td>"
        f"<td>{route.summary.translate(_ESCAPES)}</td><td>{_ACCESS[route.access]}</td></tr>"
        for route in routes
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>SecureLLM API Server</title>'
        f"<style>{_STYLE}</style></head><body><h1>SecureLLM API Server {__version__.translate(_ESCAPES)}</h1>"
        "<p>One OpenAI- and Anthropic-compatible endpoint in front of several providers. Send your key as "
        "<code>Authorization: Bearer &lt;key&gt;</code> or <code>x-api-key: &lt;key&gt;</code>; name models as "
        "<code>&lt;provider&gt;/&lt;model&gt;</code>. <code>GET /v1/models</code> lists them; "
        '<a href="/openapi.json">openapi.json</a> describes the endpoints to programs.</p>'
        "<table><thead><tr><th>Method</th><th>Path</th><th>What it does</th><th>Who may</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></body></html>"
    )


def _readable(path: str) -> str:
    return _PARAMETER.sub(r"{\1}", path)
