"""OpenAI's front door: chat completions, completions, embeddings, responses, and the models."""

from functools import partial
from typing import TYPE_CHECKING

from securellm.accounts.authority import may_use
from securellm.chat import Dialect, Endpoint
from securellm.errors import NotFound, UnknownModel
from securellm.providers.models import card_anthropic, card_openai, list_anthropic, list_openai
from securellm.web import schemas
from securellm.web.answers import json_answer
from securellm.web.asgi import EdgeRequest
from securellm.web.lane import infer
from securellm.web.refusals import dialect_of
from securellm.web.routes import Access, Route, Schema

if TYPE_CHECKING:
    from quart.wrappers import Response

SHOWN_ID_CHARS = 80  # of a model's name that is repeated in an error


async def list_models(edge: EdgeRequest) -> "Response":
    """Every model that the caller may ask for, in the shape of its API."""
    caller = edge.caller
    assert caller is not None  # the route needs a key
    cards = [card for card in edge.runtime.catalogue.models() if may_use(caller, card.provider, card.model)]
    anthropic = dialect_of(edge.path, edge.headers) is Dialect.ANTHROPIC
    return json_answer(list_anthropic(cards) if anthropic else list_openai(cards))


async def show_model(edge: EdgeRequest, model: str) -> "Response":
    """One model, by its id, an alias or a bare name with one owner."""
    card, caller = edge.runtime.catalogue.find(model), edge.caller
    assert caller is not None  # the route needs a key
    if card is None or not may_use(caller, card.provider, card.model):
        shown = ascii(model[:SHOWN_ID_CHARS])
        raise UnknownModel(f"no model {shown} is known; GET /v1/models lists the known ones", param="model")
    anthropic = dialect_of(edge.path, edge.headers) is Dialect.ANTHROPIC
    return json_answer(card_anthropic(card) if anthropic else card_openai(card))


async def cancel_request(edge: EdgeRequest, request_id: str) -> "Response":
    """End a request that is under way, if it was made with the caller's key or by its user."""
    caller = edge.caller
    assert caller is not None  # the route needs a key
    if not await edge.runtime.under_way.cancel(request_id, caller, own=True):
        raise NotFound("no such request of yours is under way", param="request_id")
    return json_answer({"request_id": request_id, "cancelled": True})


def _inference(path: str, endpoint: Endpoint, schema: Schema, summary: str, *, streams: bool = True) -> Route:
    return Route(
        path=path,
        methods=("POST",),
        access=Access.KEY,
        view=partial(infer, endpoint=endpoint),
        summary=summary,
        tag="OpenAI",
        schema=schema,
        answers={"200": schemas.OBJECT},
        content_types=("application/json", "text/event-stream") if streams else ("application/json",),
        asks_provider=True,
    )


ROUTES = (
    _inference("/v1/chat/completions", Endpoint.CHAT, schemas.CHAT, "Answer a conversation"),
    _inference("/v1/completions", Endpoint.COMPLETIONS, schemas.COMPLETIONS, "Continue a text"),
    _inference("/v1/embeddings", Endpoint.EMBEDDINGS, schemas.EMBEDDINGS, "Turn text into vectors", streams=False),
    _inference("/v1/responses", Endpoint.RESPONSES, schemas.RESPONSES, "Answer, in the shape of the Responses API"),
    Route(
        path="/v1/requests/<request_id>/cancel",
        methods=("POST",),
        access=Access.KEY,
        view=cancel_request,
        summary="End one of your requests that is under way",
        tag="Requests",
        answers={"200": schemas.CANCELLED, "404": schemas.OPENAI_ERROR},
    ),
    Route(
        path="/v1/models",
        methods=("GET",),
        access=Access.KEY,
        view=list_models,
        summary="List the models; in Anthropic's shape when the header anthropic-version is sent",
        tag="Models",
        answers={"200": schemas.MODELS},
    ),
    Route(
        path="/v1/models/<path:model>",
        methods=("GET",),
        access=Access.KEY,
        view=show_model,
        summary="Show one model; slashes in its id are sent as they are or as %2F",
        tag="Models",
        answers={"200": schemas.MODEL, "404": schemas.ANY_ERROR},
    ),
)
