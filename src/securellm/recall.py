"""An answer from the cache in the place of a provider's: looked for, handed out and recorded. Reads Trio's clock.

A request that is let in looks for its answer under what it is (`cache/key.py`). It finds it, waits for whoever asks the
same just now, or is given the lead: then it asks, and its answer is kept when it is complete.
"""

import msgspec
import trio

from securellm.cache.answers import Answers, Hit, Lead
from securellm.chat import Answer, Call, Caller, Headers, Outcome, Settlement, Status
from securellm.errors import TotalTimeout
from securellm.permit import Permit
from securellm.routing import Target
from securellm.settlement import settlement_of_call
from securellm.upstream.heads import AGAINST_BUFFERING, id_headers
from securellm.wire.body import Peeked


async def look_up(
    answers: Answers,
    call: Call,
    caller: Caller,
    peeked: Peeked,
    body: bytes,
    target: Target,
    *,
    epoch: str,
    deadline_s: float,
) -> Hit | Lead | None:
    """What the cache says; None where the answer is neither looked for nor kept. Raises TotalTimeout."""
    key = await answers.key_of(
        call.endpoint,
        body,
        caller,
        provider=target.provider.name,
        model=target.model,
        epoch=epoch,
        headers=call.headers,
        headers_up=tuple(name.decode("ascii") for name in target.provider.headers_up),
    )
    if key is None:
        return None
    with trio.CancelScope(deadline=deadline_s):
        return await answers.find(key, stream=peeked.stream, include_usage=peeked.include_usage is True)
    raise TotalTimeout("the time for the whole request (timeouts.total_s) passed while the same was being answered")


def hit_answer(call: Call, hit: Hit, limits: Headers) -> Answer:
    """The answer as it is sent: as good as the provider's, and it says where it comes from."""
    entry = hit.entry
    headers: Headers = [(b"content-type", hit.content_type), *id_headers(call.endpoint, call.request_id), *limits]
    if hit.content_type.startswith(b"text/event-stream"):
        headers += AGAINST_BUFFERING
    headers += [
        (b"x-securellm-provider", entry.provider.encode("latin-1")),
        (b"x-securellm-model", entry.model.encode("ascii", "backslashreplace")),
        (b"x-securellm-attempts", b"0"),
        (b"x-securellm-cache", b"hit"),
    ]
    return Answer(200, headers, hit.body)


def hit_settlement(call: Call, caller: Caller, peeked: Peeked, body: bytes, hit: Hit, epoch: str) -> Settlement:
    """The settlement of a request that was answered so: it cost nothing, and saved what the answer had cost."""
    outcome = Outcome(Status.SUCCESS, 200)
    return msgspec.structs.replace(
        settlement_of_call(call, outcome, caller, peeked, epoch, bytes_out=len(hit.body)),
        provider=hit.entry.provider,
        model=hit.entry.model,
        finish_reason=hit.entry.finish_reason,
        bytes_in=len(body),
        cache="hit",
        saved_nusd=hit.entry.cost_nusd,
    )


def end_lead(lead: Lead, permit: Permit, settlement: Settlement) -> None:
    """Keep the answer of a request that had the lead, or let the next one ask. Waits for nothing."""
    target = permit.answered_by
    kept = (
        settlement.outcome.status is Status.SUCCESS
        and permit.complete
        and permit.collected is not None
        and target is permit.route.targets[0]  # another target's answer is not what the key stands for
    )
    if not kept or target is None or permit.collected is None:
        if settlement.outcome.status is Status.SUCCESS:
            lead.decline()
        else:
            lead.abandon()
        return
    lead.keep(
        bytes(permit.collected),
        stream=permit.streamed,
        provider=target.provider.name,
        model=target.model,
        usage=settlement.usage,
        usage_source=settlement.usage_source,
        finish_reason=settlement.finish_reason,
        cost_nusd=settlement.cost_nusd,
    )
