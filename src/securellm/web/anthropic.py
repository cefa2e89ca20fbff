"""Anthropic's front door: messages, and counting their tokens. `?beta=true`, which its SDK sends, changes nothing."""

from functools import partial

from securellm.chat import Endpoint
from securellm.web import schemas
from securellm.web.lane import infer
from securellm.web.routes import Access, Route

ROUTES = (
    Route(
        path="/v1/messages",
        methods=("POST",),
        access=Access.KEY,
        view=partial(infer, endpoint=Endpoint.MESSAGES),
        summary="Answer a conversation, in the shape of Anthropic's Messages API",
        tag="Anthropic",
        schema=schemas.MESSAGES,
        answers={"200": schemas.OBJECT},
        content_types=("application/json", "text/event-stream"),
        asks_provider=True,
    ),
    Route(
        path="/v1/messages/count_tokens",
        methods=("POST",),
        access=Access.KEY,
        view=partial(infer, endpoint=Endpoint.COUNT_TOKENS),
        summary="Count the input tokens of a conversation",
        tag="Anthropic",
        schema=schemas.COUNT_TOKENS,
        answers={"200": schemas.COUNTED},
        asks_provider=True,
    ),
)
