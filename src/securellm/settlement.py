"""How a request ended, put together for the books. Reads Trio's clock and nothing else."""

import msgspec
import trio

from securellm._fast import lines
from securellm.chat import Call, Caller, Outcome, Settlement, Status, Usage
from securellm.errors import CallerError, RateLimited, SecureLLMError, ShuttingDown
from securellm.permit import Permit
from securellm.tokens import estimate_request_tokens, estimate_tokens
from securellm.wire.body import Peeked


def settlement_of(
    permit: Permit,
    outcome: Outcome,
    usage: Usage | None,
    source: str | None,
    *,
    now_s: float,
    cost_nusd: int | None,
    overrun_nusd: int | None,
) -> Settlement:
    """The settlement of a request that was let in; `usage` and `source` as `usage_of` says them."""
    call, peeked, meter, target = permit.call, permit.peeked, permit.meter, permit.answered_by
    attempts = tuple(permit.attempts)
    first_token_s = permit.first_token_s
    started_s = call.started_s
    # By place: with names it takes six times as long, for every request.
    return Settlement(
        call.request_id,
        lines.client_request_id(call.headers),
        call.endpoint,
        permit.caller,
        call.client_ip,
        peeked.model,
        target.provider.name if target is not None else None,
        target.model if target is not None else None,
        peeked.stream,
        outcome,
        attempts,
        usage,
        source,
        meter.finish_reason if meter is not None else None,
        (first_token_s - started_s) * 1000 if first_token_s is not None else None,
        (now_s - started_s) * 1000,
        len(permit.body),
        permit.bytes_out,
        permit.dropped,
        attempts[-1].upstream_request_id if attempts else None,
        meter is not None and meter.context_truncated,
        permit.page.tariff.epoch,
        cost_nusd,
        "off" if permit.holdings.lead is None else "miss",
        None,  # saved_nusd
        overrun_nusd,
    )


def settlement_of_call(
    call: Call, outcome: Outcome, caller: Caller | None, peeked: Peeked | None, epoch: str, *, bytes_out: int = 0
) -> Settlement:
    """The settlement of a request that was not let in."""
    return Settlement(
        request_id=call.request_id,
        client_request_id=lines.client_request_id(call.headers),
        endpoint=call.endpoint,
        caller=caller,
        client_ip=call.client_ip,
        requested_model=peeked.model if peeked is not None else None,
        provider=None,
        model=None,
        stream=peeked is not None and peeked.stream,
        outcome=outcome,
        attempts=(),
        usage=None,
        usage_source=None,
        finish_reason=None,
        first_token_ms=None,
        duration_ms=(trio.current_time() - call.started_s) * 1000,
        bytes_in=0,
        bytes_out=bytes_out,
        dropped=(),
        upstream_request_id=None,
        context_truncated=False,
        config_epoch=epoch,
    )


def usage_of(permit: Permit) -> tuple[Usage | None, str | None]:
    """What was used, and how we know: the provider's word where it had finished counting, else an estimate.

    A stream that was cut in the middle has delivered output that the provider did not get to count; its words about
    input still hold.
    """
    meter = permit.meter
    if meter is None:
        return None, None
    counted = permit.complete or meter.finish_reason is not None or meter.output_bytes == 0
    if meter.usage is not None and counted:
        return meter.usage, "reported"
    if meter.output_bytes == 0:
        return None, None
    delivered = estimate_tokens(meter.output_bytes)
    if meter.usage is None:
        return Usage(input_tokens=estimate_request_tokens(permit.body), output_tokens=delivered), "estimated"
    output_tokens = max(meter.usage.output_tokens, delivered)
    return msgspec.structs.replace(meter.usage, output_tokens=output_tokens), "estimated"


def refused(error: SecureLLMError) -> Outcome:
    """The outcome of a request that was not let in."""
    status = Status.FAILED
    if isinstance(error, RateLimited):
        status = Status.RATE_LIMITED
    elif isinstance(error, ShuttingDown):
        status = Status.SHUTDOWN
    elif isinstance(error, CallerError):
        status = Status.REJECTED
    return Outcome(status, error.status, error.code, error.recorded)
