"""Everything that can go wrong, each with the HTTP status, wire type and code that a caller sees.

    SecureLLMError
    ├── CallerError                the request is at fault: change it, then send it again
    │   ├── BadRequest             400 bad_request           invalid_request
    │   │   ├── InvalidTarget      400                       invalid_target
    │   │   ├── DuplicateKey       400                       duplicate_key
    │   │   ├── UnsupportedField   400                       unsupported_field
    │   │   ├── UnsupportedEndpoint 400                      unsupported_endpoint
    │   │   ├── AmbiguousModel     400                       ambiguous_model
    │   │   ├── ProviderConflict   400                       provider_conflict
    │   │   └── DestinationField   400                       destination_not_allowed
    │   ├── InvalidKey             401 authentication_error  invalid_api_key
    │   ├── BudgetExceeded         402 budget_exceeded       budget_exceeded
    │   ├── PermissionRefused      403 permission_error      permission_denied
    │   │   ├── ModelRefused       403                       model_not_allowed
    │   │   ├── EndpointRefused    403                       endpoint_not_allowed
    │   │   ├── AddressRefused     403                       address_not_allowed
    │   │   └── UnpricedModel      403                       unpriced_model
    │   ├── NotFound               404 not_found             not_found
    │   │   ├── UnknownModel       404                       model_not_found
    │   │   ├── NoTargets          404                       no_auto_targets
    │   │   └── NotAvailable       404                       not_available
    │   ├── MethodNotAllowed       405 bad_request           method_not_allowed
    │   ├── SlowBody               408 bad_request           request_timeout
    │   ├── PayloadTooLarge        413 payload_too_large     payload_too_large
    │   ├── RateLimited            429 rate_limit_exceeded   rate_limit
    │   │   └── BytesInFlight      429                       bytes_in_flight
    │   ├── OverCapacity           413 payload_too_large     over_limit_capacity
    │   ├── RequestCancelled       409 bad_request           request_cancelled
    │   ├── HeadTooLarge           431 bad_request           head_too_large
    │   └── LoopDetected           508 loop_detected         loop_detected
    ├── ProviderError              the provider is at fault
    │   ├── ProviderAnswered       its own status            upstream_error
    │   ├── UpstreamAuth           502 provider_error        upstream_auth
    │   ├── ConnectFailed          502                       connect_failed
    │   ├── DestinationRefused     502                       destination_refused
    │   ├── UpstreamInvalid        502                       upstream_invalid
    │   ├── UpstreamTruncated      502                       upstream_truncated
    │   ├── CircuitOpen            503 circuit_breaker_open  circuit_open
    │   └── UpstreamTimeout        504 timeout
    │       ├── ConnectTimeout     504                       connect_timeout
    │       ├── FirstTokenTimeout  504                       first_token_timeout
    │       ├── IdleTimeout        504                       idle_timeout
    │       └── TotalTimeout       504                       total_timeout
    └── GatewayError               we are at fault
        ├── InternalError          500 internal_error        internal_error
        ├── ConfigError            500 config_error          config_error
        ├── DatabaseError          500 database_error        database_error
        ├── AuditUnavailable       503 audit_unavailable     audit_unavailable
        ├── StoreUnavailable       503 store_unavailable     store_unavailable
        │   ├── LimitsUnavailable  503                       limits_unavailable
        │   └── BudgetsUnavailable 503                       budgets_unavailable
        └── ShuttingDown           503 internal_error        shutting_down

Messages are lower case, say what was got and what was expected, and never hold a secret or a prompt. Programs look
at `code`; the text may change. How an error looks on the wire is `wire/envelope.py`.
"""

from typing import ClassVar


class SecureLLMError(Exception):
    """The root. `status` HTTP status, `type` and `code` as on the wire, `param` the field that is at fault."""

    status: int = 500
    type: ClassVar[str] = "internal_error"
    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False
    source: ClassVar[str] = "gateway"  # what x-securellm-error-source says

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def recorded(self) -> str:
        """The message as the books may keep it: never a provider's own words."""
        return self.message


class CallerError(SecureLLMError):
    """The request is at fault; sending it again unchanged fails again (RateLimited excepted)."""

    status = 400
    type = "bad_request"
    code = "invalid_request"


class BadRequest(CallerError):
    """Something in the request is malformed, missing or out of range; `param` names it."""


class InvalidTarget(BadRequest):
    """The request target is not in canonical form (`//`, `%61`, `..`, an absolute URL …)."""

    code = "invalid_target"


class DuplicateKey(BadRequest):
    """The body names one top-level key twice, so that two readers could see two requests."""

    code = "duplicate_key"


class UnsupportedField(BadRequest):
    """A field that changes the meaning of the request and that the chosen provider's dialect cannot express."""

    code = "unsupported_field"


class UnsupportedEndpoint(BadRequest):
    """The chosen provider has no such endpoint."""

    code = "unsupported_endpoint"


class AmbiguousModel(BadRequest):
    """A bare model name that several providers own; the message lists them."""

    code = "ambiguous_model"


class ProviderConflict(BadRequest):
    """X-Provider and the model's prefix name different providers."""

    code = "provider_conflict"


class DestinationField(BadRequest):
    """The caller tries to choose where the request goes (api_base, base_url …); only the operator may."""

    code = "destination_not_allowed"


class InvalidKey(CallerError):
    """No key, or one that is unknown, revoked or expired; the three are told alike."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class BudgetExceeded(CallerError):
    """What the request may cost does not fit into what is left of a budget; `param` names whose budget it is."""

    status = 402
    type = "budget_exceeded"
    code = "budget_exceeded"


class PermissionRefused(CallerError):
    """A good key that may not do this."""

    status = 403
    type = "permission_error"
    code = "permission_denied"


class ModelRefused(PermissionRefused):
    """The key may not use the model, or its provider."""

    code = "model_not_allowed"


class EndpointRefused(PermissionRefused):
    """The key may not use the endpoint."""

    code = "endpoint_not_allowed"


class AddressRefused(PermissionRefused):
    """The key may not be used from the caller's address."""

    code = "address_not_allowed"


class UnpricedModel(PermissionRefused):
    """The model has no price, so what it costs is unknown; the message names the lines of configuration to add."""

    code = "unpriced_model"


class NotFound(CallerError):
    """No such path or object."""

    status = 404
    type = "not_found"
    code = "not_found"


class UnknownModel(NotFound):
    """No configured provider owns the model."""

    code = "model_not_found"


class NoTargets(NotFound):
    """`auto` was asked for and has no target. (Targets that are all unwell are CircuitOpen.)"""

    code = "no_auto_targets"


class NotAvailable(NotFound):
    """A known endpoint or feature that this version does not have."""

    code = "not_available"


class MethodNotAllowed(CallerError):
    """The path exists, with other methods."""

    status = 405
    code = "method_not_allowed"


class SlowBody(CallerError):
    """The request's body did not arrive in time."""

    status = 408
    code = "request_timeout"


class PayloadTooLarge(CallerError):
    """The body is over `server.max_request_size_bytes`."""

    status = 413
    type = "payload_too_large"
    code = "payload_too_large"


class RateLimited(CallerError):
    """Over a limit; `retry_after_s` says when it fits again, `headers` are those of its answer (`x-ratelimit-*`)."""

    status = 429
    type = "rate_limit_exceeded"
    code = "rate_limit"
    retryable = True
    headers: tuple[tuple[bytes, bytes], ...] = ()


class BytesInFlight(RateLimited):
    """The bodies being served together are over `server.max_in_flight_bytes`."""

    code = "bytes_in_flight"


class OverCapacity(CallerError):
    """The request asks for more than a limit ever grants at once, so that waiting would not help."""

    status = 413
    type = "payload_too_large"
    code = "over_limit_capacity"


class RequestCancelled(CallerError):
    """Somebody who may has ended the request while it was under way: its owner, an operator, or who revoked its key."""

    status = 409
    code = "request_cancelled"


class HeadTooLarge(CallerError):
    """The request's head is over `server.max_head_bytes`."""

    status = 431
    code = "head_too_large"


class LoopDetected(CallerError):
    """The request has passed through a SecureLLM Bridge already (`x-securellm-hop`)."""

    status = 508
    type = "loop_detected"
    code = "loop_detected"


class ProviderError(SecureLLMError):
    """The provider is at fault."""

    status = 502
    type = "provider_error"
    code = "upstream_error"
    source = "upstream"


class ProviderAnswered(ProviderError):
    """The provider answered with an error of its own; `status` is its status.

    `kind` is the provider's own error type and `native_code` its code, where it gave them.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        kind: str | None = None,
        native_code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)
        self.status = status
        self.kind = kind
        self.native_code = native_code

    @property
    def recorded(self) -> str:
        """See SecureLLMError. A provider's words may repeat the prompt."""
        return f"the provider answered with an error of its own ({self.status})"


class UpstreamAuth(ProviderError):
    """The provider refused our key (401 or 403): the operator's fault, not the caller's."""

    code = "upstream_auth"
    source = "gateway"


class ConnectFailed(ProviderError):
    """No connection to the provider could be made; nothing was sent."""

    code = "connect_failed"
    retryable = True


class DestinationRefused(ProviderError):
    """The provider's name resolves to an address that requests must not go to."""

    code = "destination_refused"
    source = "gateway"


class UpstreamInvalid(ProviderError):
    """The provider's answer cannot be understood."""

    code = "upstream_invalid"


class UpstreamTruncated(ProviderError):
    """The provider's answer ended before its own terminal event."""

    code = "upstream_truncated"


class CircuitOpen(ProviderError):
    """The provider has failed too often lately; it is asked again after `retry_after_s`."""

    status = 503
    type = "circuit_breaker_open"
    code = "circuit_open"
    source = "gateway"
    retryable = True


class UpstreamTimeout(ProviderError):
    """The provider took longer than a timer allows."""

    status = 504
    type = "timeout"
    code = "total_timeout"


class ConnectTimeout(UpstreamTimeout):
    """`timeouts.connect_s` passed before the connection stood."""

    code = "connect_timeout"


class FirstTokenTimeout(UpstreamTimeout):
    """`timeouts.first_token_s` passed before the first semantic event of a stream."""

    code = "first_token_timeout"


class IdleTimeout(UpstreamTimeout):
    """`timeouts.idle_s` passed between two semantic events of a stream; pings do not count."""

    code = "idle_timeout"


class TotalTimeout(UpstreamTimeout):
    """`timeouts.total_s` passed; it covers every attempt of the request."""

    code = "total_timeout"


class GatewayError(SecureLLMError):
    """We are at fault."""


class InternalError(GatewayError):
    """A defect; the log has the details under the request's id."""


class ConfigError(GatewayError):
    """The configuration does not allow the request to be served."""

    type = "config_error"
    code = "config_error"


class DatabaseError(GatewayError):
    """The store refused an operation."""

    type = "database_error"
    code = "database_error"


class AuditUnavailable(GatewayError):
    """The request's record cannot be made durable, so it is not served (`audit.mode` is `strict`)."""

    status = 503
    type = "audit_unavailable"
    code = "audit_unavailable"
    retryable = True


class StoreUnavailable(GatewayError):
    """Keys cannot be checked now; this says nothing about the key."""

    status = 503
    type = "store_unavailable"
    code = "store_unavailable"
    retryable = True


class LimitsUnavailable(StoreUnavailable):
    """The limits' shared counts cannot be reached (`rate_limit.when_unreachable` is `refuse`)."""

    code = "limits_unavailable"


class BudgetsUnavailable(StoreUnavailable):
    """What is left of a budget cannot be told now; nothing is spent that nobody counts."""

    code = "budgets_unavailable"


class ShuttingDown(GatewayError):
    """The gateway is stopping; another one, or this one later, will answer."""

    status = 503
    code = "shutting_down"
    retryable = True
