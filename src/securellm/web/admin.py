"""What operators do over HTTP: ask the providers for their models. The rest is not built yet."""

from typing import TYPE_CHECKING

from securellm.chat import Endpoint
from securellm.web import schemas
from securellm.web.answers import json_answer
from securellm.web.asgi import EdgeRequest
from securellm.web.routes import Access, Route

if TYPE_CHECKING:
    from quart.wrappers import Response


async def sync_models(edge: EdgeRequest) -> "Response":
    """Ask every provider for its models now, and tell what each said. One that fails does not fail the others."""
    runtime, caller = edge.runtime, edge.caller
    assert caller is not None  # the route is for operators
    call = edge.call(Endpoint.SYNC)
    return json_answer({"providers": await runtime.gateway.record(call, caller, runtime.sync_models)})


ROUTES = (
    Route(
        path="/api/models/sync",
        methods=("POST",),
        access=Access.OPERATOR,
        recorded=Endpoint.SYNC,
        view=sync_models,
        summary="Ask the providers for their models",
        tag="Operation",
        answers={"200": schemas.SYNCED},
    ),
)
