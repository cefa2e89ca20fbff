"""A complete answer to a request that was let in, in the caller's dialect: a whole body, or an error."""

import msgspec
import trio

from securellm.chat import Headers, Outcome, Status
from securellm.errors import CallerError, ProviderAnswered, SecureLLMError, TotalTimeout
from securellm.permit import Permit
from securellm.providers.request import AnswerHead
from securellm.upstream.counting import count_request
from securellm.upstream.heads import CONTENT_TYPE_JSON, answer_headers, id_headers, served_by, typed_headers
from securellm.upstream.prepare import Prepared
from securellm.upstream.stream import status_of
from securellm.wire.envelope import encode_error, error_headers

_OK = Outcome(Status.SUCCESS, 200)  # how nearly all end


class Reply(msgspec.Struct, frozen=True):
    """What the caller is sent, and how the request ended."""

    status: int
    headers: Headers
    body: bytes
    outcome: Outcome


def whole_reply(permit: Permit, prepared: Prepared, status: int, head: AnswerHead, body: bytes) -> Reply:
    """A provider's whole answer."""
    headers = answer_headers(permit, head, stream=False, translated=prepared.translated)
    return Reply(status, headers, body, _OK if status == 200 else Outcome(Status.SUCCESS, status))


def refusal_reply(permit: Permit, error: ProviderAnswered, prepared: Prepared, body: bytes, head: AnswerHead) -> Reply:
    """A provider's own error: its status, and its body, unchanged in the same dialect and translated otherwise."""
    headers = typed_headers(head, CONTENT_TYPE_JSON, replace=prepared.translated)
    headers += [*served_by(permit), (b"x-securellm-error-source", b"upstream")]
    return Reply(error.status, headers, prepared.relay.refused(error.status, body), _outcome(error))


def error_reply(permit: Permit, error: SecureLLMError) -> Reply:
    """An error of ours."""
    body = encode_error(permit.endpoint.dialect, error, permit.request_id)
    headers = [CONTENT_TYPE_JSON, *error_headers(error), *served_by(permit)]
    return Reply(error.status, headers, body, _outcome(error))


async def count_reply(permit: Permit) -> Reply:
    """The answer to count_tokens where the provider cannot count: ours, and it says what it is worth."""
    with permit.waiting_under(trio.CancelScope(deadline=permit.deadline_s)):
        counted = await count_request(permit.route.targets[0], permit.body)
        headers = [
            CONTENT_TYPE_JSON,
            *id_headers(permit.endpoint, permit.request_id),
            (b"x-securellm-usage-source", counted.source.encode("ascii")),
        ]
        body = msgspec.json.encode({"input_tokens": counted.tokens})
        return Reply(200, headers, body, _OK)
    return error_reply(
        permit, permit.interruption or TotalTimeout("the time for the whole request (timeouts.total_s) passed")
    )


def _outcome(error: SecureLLMError) -> Outcome:
    status = status_of(error)
    if status is Status.FAILED and isinstance(error, CallerError):
        status = Status.REJECTED
    return Outcome(status, error.status, error.code, error.recorded)
