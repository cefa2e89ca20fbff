"""`/api/admin/requests`, `/limits` and `/workers`: what is being served, by whom, and what bounds a key."""

from typing import Any

from securellm.chat import Caller
from securellm.errors import BadRequest, NotFound, SecureLLMError
from securellm.web import schemas as common
from securellm.web.administration import schemas
from securellm.web.administration.asking import Asking, endpoint

MODEL_SCOPE = "model"


async def list_requests(asking: Asking) -> Any:
    """The requests under way in all workers, the oldest first, and the workers that did not answer."""
    return await asking.runtime.under_way.requests()


async def cancel_request(asking: Asking, request_id: str) -> dict[str, Any]:
    """End a request, whoever made it; its caller is told so in its own dialect."""
    if not await asking.runtime.under_way.cancel(request_id, asking.caller, own=False):
        raise NotFound("no such request is under way", param="request_id")
    return {"request_id": request_id, "cancelled": True}


async def list_workers(asking: Asking) -> dict[str, Any]:
    """How every worker is."""
    return {"workers": await asking.runtime.workers()}


async def show_limits(asking: Asking) -> dict[str, Any]:
    """What a key's requests have to meet, with `model` also the model's and its provider's; would one be let in now?"""
    wanted = asking.query("key", "model")
    key_id, model = wanted.get("key"), wanted.get("model", "")
    if not key_id:
        raise BadRequest("key: got none in the query, expected the id of a key", param="key")
    caller: Caller | None = asking.runtime.accounts.caller_of(key_id)
    if caller is None:
        raise NotFound("there is no key in force with that id", param="key")
    limiter = asking.runtime.limiter
    demands = [one for one in limiter.demands(caller, model) if model or one.scope.value != MODEL_SCOPE]
    refusal: SecureLLMError | None = limiter.would_allow(caller, model, 1) if model else None
    return {
        "key": key_id,
        "model": model or None,
        "limits": [
            {
                "scope": one.scope.value,
                "subject": one.subject,
                "measure": one.measure.name.lower(),
                "limit": one.quota.limit,
                "burst": one.quota.burst,
                "period_s": one.quota.period_us / 1_000_000,
            }
            for one in demands
        ],
        "refusal": _shown(refusal) if refusal is not None else None,
    }


def _shown(refusal: SecureLLMError) -> dict[str, Any]:
    return {
        "code": refusal.code,
        "message": refusal.message,
        "param": refusal.param,
        "retry_after_s": refusal.retry_after_s,
    }


ROUTES = (
    endpoint("GET", "/requests", list_requests, "List the requests under way in all workers", schemas.REQUESTS),
    endpoint("POST", "/requests/<request_id>/cancel", cancel_request, "End a request under way", common.CANCELLED),
    endpoint("GET", "/limits", show_limits, "Show the limits of a key", schemas.LIMITS),
    endpoint("GET", "/workers", list_workers, "Show how every worker is", schemas.WORKERS),
)
