"""Endpoints that are not here, and that somebody may look for: refused by name, so that nobody looks for a typo."""

from typing import TYPE_CHECKING

import msgspec

from securellm.errors import NotAvailable
from securellm.web.asgi import EdgeRequest
from securellm.web.routes import Access, Route

if TYPE_CHECKING:
    from quart.wrappers import Response

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
BELOW = ("", "/<path:rest>")  # a path, and everything below it

# path -> what it is. Each also stands for everything below it.
FAMILIES = {
    "/v1/audio": "audio",
    "/v1/images": "images",
    "/v1/videos": "videos",
    "/v1/batches": "batches",
    "/v1/messages/batches": "message batches",
    "/v1/files": "files",
    "/v1/uploads": "uploads",
    "/v1/moderations": "moderations",
    "/v1/realtime": "realtime",
    "/v1/fine_tuning": "fine-tuning",
    "/v1/assistants": "assistants",
    "/v1/threads": "threads",
    "/v1/vector_stores": "vector stores",
    "/v1/containers": "containers",
    "/v1/conversations": "conversations",
    "/v1/evals": "evals",
    "/v1/rerank": "reranking",
    "/v1/complete": "Anthropic's text completions",
    "/v1/organizations": "administration of organizations",
}
# Things kept by the provider.
SINGLE = {
    "/v1/chat/completions/<path:rest>": "stored chat completions",
    "/v1/responses/<path:rest>": "stored responses",
}


NOT_HERE = "administration is not on this port: it is on <state_dir>/admin.sock, and where [admin] bind says"


def _refusing(what: str, why: str = "") -> Route:
    message = why or f"{what}: not available in this version of SecureLLM Bridge; GET /docs lists what is"

    async def refuse(edge: EdgeRequest, rest: str = "") -> "Response":
        raise NotAvailable(message)

    return Route(
        path="",
        methods=METHODS,
        access=Access.PUBLIC,
        view=refuse,
        summary=f"Not available here: {what}",
        tag="Later",
        shown=False,
    )


def _routes() -> tuple[Route, ...]:
    paths = [(path + below, _refusing(what)) for path, what in FAMILIES.items() for below in BELOW]
    paths += [(path, _refusing(what)) for path, what in SINGLE.items()]
    paths += [("/api/admin" + below, _refusing("administration", NOT_HERE)) for below in BELOW]
    return tuple(msgspec.structs.replace(route, path=path) for path, route in paths)


ROUTES = _routes()
