"""One HTTP request from the command line to the running gateway.

The standard library's client: the commands start in a tenth of a second with it, and httpx stays in the one module
that asks the providers. The gateway is at `SECURELLM_URL`, the key in `SECURELLM_API_KEY`.
"""

import http.client
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import click
import msgspec

from securellm import __version__

DEFAULT_URL = "http://127.0.0.1:8080"
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 660.0  # above the gateway's own total_s, so that its error is shown and not ours
READ_BYTES = 65_536
TEXT_SHOWN_CHARACTERS = 200


class Refused(click.ClickException):
    """The gateway answered with an error; `code` and `status` are its own."""

    def __init__(self, message: str, status: int, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class GatewayAnswer:
    """An answer whose body is still to be read. Close it by `with`."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.status = response.status

    def __enter__(self) -> "GatewayAnswer":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._connection.close()

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives. Raises ClickException when it breaks off."""
        try:
            while piece := self._response.read1(READ_BYTES):
                yield piece
        except (OSError, http.client.HTTPException) as exc:
            raise click.ClickException("the answer broke off: the gateway closed the connection") from exc

    def json(self) -> Any:
        """The whole body, decoded. Raises Refused on an error status, ClickException when it is not JSON."""
        body = b"".join(self.pieces())
        if self.status >= 400:
            raise refusal(self.status, body)
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError as exc:
            raise click.ClickException(f"this is not the gateway: {gateway_url()} answered without JSON") from exc


def gateway_url() -> str:
    """Where the gateway is."""
    return (os.environ.get("SECURELLM_URL") or DEFAULT_URL).rstrip("/")


def ask_gateway(method: str, path: str, body: object = None) -> GatewayAnswer:
    """Send one request. Raises ClickException with the next command to type when nobody answers."""
    connection = open_connection(gateway_url())
    headers = {"user-agent": f"securellm-cli/{__version__}", "accept": "*/*"}
    key = os.environ.get("SECURELLM_API_KEY", "").strip()
    if key:
        headers["authorization"] = f"Bearer {key}"
    data = None
    if body is not None:
        data = msgspec.json.encode(body)
        headers["content-type"] = "application/json"
    try:
        connection.connect()
        if connection.sock is not None:
            connection.sock.settimeout(ANSWER_TIMEOUT_S)
        connection.request(method, f"{urlsplit(gateway_url()).path}{path}", data, headers)
        return GatewayAnswer(connection, connection.getresponse())
    except (ValueError, UnicodeError) as exc:
        connection.close()
        raise click.ClickException("SECURELLM_API_KEY holds characters that cannot be in a header") from exc
    except (OSError, http.client.HTTPException) as exc:
        connection.close()
        raise nobody(gateway_url(), exc) from exc


def open_connection(url: str, said_in: str = "SECURELLM_URL") -> http.client.HTTPConnection:
    """A connection to the gateway at that URL, which is not made yet. Raises ClickException when it is no such URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if not host or parts.scheme not in ("http", "https") or parts.username:
        raise click.ClickException(f"{said_in} is not a URL like {DEFAULT_URL}")
    if parts.scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT_S)
    return http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_S)


def refusal(status: int, body: bytes) -> Refused:
    """An error answer as an exception, with the next thing to do where there is one."""
    try:
        error = msgspec.json.decode(body, type=dict[str, Any]).get("error")
    except msgspec.MsgspecError:
        error = None
    message, code = f"status {status}", None
    if isinstance(error, dict):
        message, code = str(error.get("message", message)), error.get("code")
    if status == 401:
        return Refused(f"{message}. Set SECURELLM_API_KEY; securellm keys create makes a key.", status, code)
    return Refused(f"{message} ({code or status})", status, code)


def nobody(url: str, exc: Exception) -> click.ClickException:
    """The error that tells that no gateway is there, and what to type next."""
    return click.ClickException(
        f"no gateway answers at {url} ({reason(exc)}). "
        "Start one with: securellm serve, or say where it is in SECURELLM_URL."
    )


def reason(exc: Exception) -> str:
    """Why a connection failed, in a few words."""
    if isinstance(exc, TimeoutError):
        return "timed out"
    text = getattr(exc, "strerror", None) or type(exc).__name__
    return str(text).lower()[:TEXT_SHOWN_CHARACTERS]
