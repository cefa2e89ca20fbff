"""What the audit says of a request: its intent, each further attempt, its end. Pure.

The words are the contract's; the facts come from `chat.Settlement` and the cost from `pricing`.
"""

from collections.abc import Callable, Sequence

import msgspec

from securellm._fast import lines
from securellm.audit.record import AttemptRecord, Buckets, Record, decimal, timestamp
from securellm.chat import Attempt, Call, Caller, Outcome, Settlement, Status, Usage
from securellm.pricing.table import record_usage

MAX_TEXT_CHARS = 512  # of what callers and providers write: ids, models' names, messages
MAX_DROPPED = 64  # names in `dropped`
NUSD_PLACES = 9
MS_PLACES = 3

Cost = Callable[[str, str, Usage, int], int | None]
# provider, model, usage, Unix microseconds -> nano-USD; None when there is no price


class Hashes(msgspec.Struct, frozen=True):
    """What content modes from `hash` up add; hex SHA-256 each, None where there was no body."""

    request: str | None = None
    answer: str | None = None
    content: str | None = None  # `redacted` or `full`, when encrypted bodies lie beside the chain
    request_content: str | None = None
    answer_content: str | None = None


NO_HASHES = Hashes()


def intent_record(
    call: Call,
    caller: Caller | None,
    requested_model: str | None,
    stream: bool,
    provider: str | None,
    model: str | None,
    epoch: str,
    now_us: int,
) -> Record:
    """`request_received`: on disk before a provider is asked. `provider` and `model` are those asked first."""
    return Record(
        timestamp(now_us),
        "request_received",
        request_id=call.request_id,
        client_request_id=_cut(lines.client_request_id(call.headers)),
        epoch=epoch,
        user_id=caller.user_id if caller is not None else None,
        key_id=caller.key_id if caller is not None else None,
        client_ip=call.client_ip,
        endpoint=call.endpoint.value,
        requested_model=_cut(requested_model),
        provider=provider,
        model=_cut(model),
        stream=stream,
    )


def attempt_record(intent: Record, *, number: int, provider: str, model: str, now_us: int) -> Record:
    """`attempt_started`: on disk before a provider after the first is asked."""
    return msgspec.structs.replace(
        intent,
        timestamp=timestamp(now_us),
        event_type="attempt_started",
        provider=provider,
        model=_cut(model),
        attempt=number,
    )


def attempt_costs(attempts: Sequence[Attempt], usage: Usage | None, cost: Cost, now_us: int) -> tuple[int | None, ...]:
    """What each attempt cost in nano-USD, at the prices of `now_us`; None where nothing was used.

    `usage` is the answer's, which may be an estimate, and the last attempt's; the others have what was reported.
    """
    if len(attempts) == 1:  # as of nearly every request
        (only,) = attempts
        return (cost(only.provider, only.model, usage, now_us) if usage is not None else None,)
    costs_nusd = []
    for attempt in attempts:
        used = usage if attempt is attempts[-1] else attempt.usage
        costs_nusd.append(cost(attempt.provider, attempt.model, used, now_us) if used is not None else None)
    return tuple(costs_nusd)


def closing_record(
    settlement: Settlement, costs_nusd: tuple[int | None, ...], price_table: str, hashes: Hashes, now_us: int
) -> Record:
    """`response_sent` or `request_failed`: on disk before the last byte of the answer."""
    usage, outcome, cost_nusd = settlement.usage, settlement.outcome, settlement.cost_nusd
    buckets = _buckets(usage)
    last = settlement.attempts[-1] if settlement.attempts else None
    attempts = tuple(
        [
            _attempt(attempt, buckets if attempt is last else _buckets(attempt.usage), cost_nusd)
            for attempt, cost_nusd in zip(settlement.attempts, costs_nusd, strict=True)
        ]
    )
    caller = settlement.caller
    return Record(
        timestamp(now_us),
        "response_sent" if _was_sent(outcome) else "request_failed",
        request_id=settlement.request_id,
        client_request_id=_cut(settlement.client_request_id),
        epoch=settlement.config_epoch,
        user_id=caller.user_id if caller is not None else None,
        key_id=caller.key_id if caller is not None else None,
        client_ip=settlement.client_ip,
        endpoint=settlement.endpoint.value,
        requested_model=_cut(settlement.requested_model),
        provider=settlement.provider,
        model=_cut(settlement.model),
        stream=settlement.stream,
        status=outcome.status.value,
        http_status=outcome.http_status,
        error_code=_cut(outcome.error_code),
        error_message=_cut(outcome.error_message),
        prompt_tokens=usage.prompt_tokens if usage is not None else None,
        completion_tokens=usage.completion_tokens if usage is not None else None,
        total_tokens=usage.total_tokens if usage is not None else None,
        usage=buckets,
        usage_source=settlement.usage_source,
        estimated_cost_usd=decimal(cost_nusd, places=NUSD_PLACES) if cost_nusd is not None else None,
        cost_nusd=cost_nusd,
        price_table=price_table if cost_nusd is not None or settlement.saved_nusd is not None else None,
        saved_nusd=settlement.saved_nusd,
        overrun_nusd=settlement.overrun_nusd,
        finish_reason=_cut(settlement.finish_reason),
        duration_ms=_ms(settlement.duration_ms),
        first_token_ms=_ms(settlement.first_token_ms),
        bytes_in=settlement.bytes_in,
        bytes_out=settlement.bytes_out,
        cache=settlement.cache,
        upstream_request_id=_cut(settlement.upstream_request_id),
        dropped=tuple(settlement.dropped[:MAX_DROPPED]) or None,
        context_truncated=settlement.context_truncated or None,
        request_sha256=hashes.request,
        answer_sha256=hashes.answer,
        content=hashes.content,
        request_content_sha256=hashes.request_content,
        answer_content_sha256=hashes.answer_content,
        attempts=attempts or None,
    )


def event_record(
    action: str,
    *,
    epoch: str,
    now_us: int,
    count: int | None = None,
    client_ip: str | None = None,
    detail: dict[str, str | int] | None = None,
) -> Record:
    """`security_event`: something that no request is the story of."""
    return Record(
        timestamp(now_us),
        "security_event",
        epoch=epoch,
        client_ip=client_ip,
        action=action,
        count=count,
        detail=detail,
    )


def _buckets(usage: Usage | None) -> Buckets | None:
    return record_usage(usage) if usage is not None else None


def _attempt(attempt: Attempt, usage: Buckets | None, cost_nusd: int | None) -> AttemptRecord:
    return AttemptRecord(
        number=attempt.number,
        provider=attempt.provider,
        model=attempt.model[:MAX_TEXT_CHARS],
        http_status=attempt.http_status,
        error_code=_cut(attempt.error_code),
        duration_ms=_ms(attempt.duration_ms) if attempt.skipped is None else None,
        usage=usage,
        cost_nusd=cost_nusd,
        upstream_request_id=_cut(attempt.upstream_request_id),
        skipped=attempt.skipped,
    )


def _was_sent(outcome: Outcome) -> bool:
    return outcome.status is Status.SUCCESS


def _ms(value: float | None) -> msgspec.Raw | None:
    return decimal(round(value * 1000), places=MS_PLACES) if value is not None else None


def _cut(text: str | None) -> str | None:
    return text[:MAX_TEXT_CHARS] if text is not None else None
