"""`securellm serve`: load the configuration, take the port, then import and open everything else, then serve.

The port is taken before the heavy imports, so that whoever connects while the process starts waits instead of being
refused. What is printed at the start goes to standard output, the log to standard error.
"""

import gc
import logging
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import click

from securellm import __version__
from securellm.cli.settings import check_prices, check_routes, config_option, load_or_explain
from securellm.config import Config
from securellm.errors import ConfigError, SecureLLMError
from securellm.telemetry.logs import add_field, add_secrets, open_logs, open_outlet

if TYPE_CHECKING:
    from securellm.runtime import Runtime
    from securellm.workers.supervisor import Start

OLLAMA_ANSWERS_WITHIN_S = 0.3  # it is on this machine or not at all; the start does not wait for longer
GARBAGE_AT_OBJECTS = 10_000  # some thirty requests' worth; python's 700 would be two
DEMO_MODEL = "demo/echo"
SHOWN_PROVIDERS = 8

_log = logging.getLogger("securellm.cli")


@click.command()
@config_option
@click.option("--host", help="Address to listen on, in place of server.host.")
@click.option("--port", help="Port to listen on, in place of server.port; 0 takes a free one.")
@click.option("--workers", help="Processes that share the port, in place of server.workers.")
@click.option(
    "--lane",
    type=click.Choice(["auto", "reference", "express"]),
    default="auto",
    show_default=True,
    help="Which edge serves: the compiled one (express) or the plain one; auto takes express where it was built.",
)
def serve(config_path: str | None, host: str | None, port: str | None, workers: str | None, lane: str) -> None:
    """Start the gateway and serve until SIGTERM or Ctrl-C.

    Both let open requests finish; a second one stops at once. SIGHUP reads the configuration again.
    """
    given = {"server.host": host, "server.port": port, "server.workers": workers}
    flags = {name: text for name, text in given.items() if text is not None}
    config = load_or_explain(config_path, flags)
    sockets = _bind(config)
    try:
        check_lane(lane)
        check_routes(config)
        check_prices(config)
        found: tuple[str, ...] = ()
        if _may_use_ollama(config):
            found = ("ollama",)
            config = load_or_explain(config_path, flags, found)
        load = partial(_load_again, config_path, flags, found)
        with open_logs(config.telemetry.log_level, config.secrets()):
            for warning in config.warnings:
                _log.warning("configuration: %s", warning)
            if config.server.workers == 1:
                _serve(config, sockets, lane, load)
            else:
                _supervise(config, sockets, lane, load)
    finally:
        for bound in sockets:
            bound.close()


def _load_again(config_path: str | None, flags: Mapping[str, str], found: tuple[str, ...]) -> Config:
    """What a start would read now, with every check of a start. Raises SecureLLMError."""
    try:
        config = load_or_explain(config_path, flags, found)
        check_routes(config)
        check_prices(config)
    except click.ClickException as exc:
        raise ConfigError(exc.message) from exc
    add_secrets(config.secrets())
    return config


def _supervise(config: Config, sockets: list[socket.socket], lane: str, load: Callable[[], Config]) -> None:
    """Serve with several processes. Raises Exit with the code that tells the truth about them."""
    from securellm.workers.directory import open_run_directory
    from securellm.workers.supervisor import Start, Supervisor

    def work(start: Start) -> int:
        add_field("worker", start.place.slot)
        try:
            _serve(start.config, sockets, lane, load, start)
        except click.ClickException as exc:
            exc.show()
            return exc.exit_code
        except click.exceptions.Exit as exc:
            return exc.exit_code
        return 0

    try:
        with open_run_directory(config.state_dir) as run_dir:
            code = Supervisor(config, sockets, run_dir, work=work, load=load).run()
    except SecureLLMError as exc:
        raise click.ClickException(exc.message) from exc
    if code:
        raise click.exceptions.Exit(code)


def check_lane(wanted: str) -> None:
    """Before anything is made: the express lane can be had, if it is asked for by name. Raises ClickException."""
    if wanted == "express":
        from securellm.web.lanes import NOT_BUILT, express_is_built  # not `server`: that imports Trio first

        if not express_is_built():
            raise click.ClickException(NOT_BUILT)


def _bind(config: Config) -> list[socket.socket]:
    from securellm.web.binding import bind_sockets  # not `server`: that imports Trio first

    try:
        return bind_sockets(config)
    except SecureLLMError as exc:
        raise click.ClickException(f"{exc.message}. Try another: securellm serve --port 8081") from exc


def _may_use_ollama(config: Config) -> bool:
    """Without a file, and unless something was said about it, Ollama is used if it answers on this machine."""
    import os

    if config.source is not None or os.environ.get("OLLAMA_ENABLED", "").strip():
        return False
    section = config.providers.get("ollama")
    if section is not None and section.enabled:
        return False
    return _answers(section.base_url if section is not None else None)


def _answers(base_url: str | None) -> bool:
    import http.client
    from urllib.parse import urlsplit

    from securellm.providers.registry import ADAPTERS

    parts = urlsplit(base_url or ADAPTERS["ollama"].base_url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=OLLAMA_ANSWERS_WITHIN_S)
    try:
        connection.request("GET", "/api/version")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _serve(
    config: Config,
    sockets: list[socket.socket],
    lane: str,
    load: Callable[[], Config],
    start: "Start | None" = None,
) -> None:
    """Serve until told to stop. Raises ClickException for what the operator can mend, Exit after a logged defect."""
    try:
        _open_and_serve(config, sockets, lane, load, start)
    except BaseException as raised:
        error = _innermost(raised)
        if isinstance(error, SecureLLMError):
            raise click.ClickException(error.message) from raised
        if not isinstance(error, Exception):
            raise error from None  # Ctrl-C before the server was there to take it
        # Told here, as the log's cleaning ends with the log: the interpreter would show the traceback as it is.
        _log.critical("stopped by an error that nobody handled", exc_info=raised)
        raise click.exceptions.Exit(1) from raised


def _open_and_serve(
    config: Config, sockets: list[socket.socket], wanted: str, load: Callable[[], Config], start: "Start | None"
) -> None:
    from securellm.loading import load_libraries

    load_libraries(config)  # first of all: what is imported by anybody else before it is imported as a whole

    import trio

    from securellm import runtime, server
    from securellm.accounts.store import ensure_first_key
    from securellm.web.administration.sockets import open_admin_sockets
    from securellm.workers.place import ALONE
    from securellm.workers.worker import Link

    announces = start is None or start.announces
    banner = Banner(config, ensure_first_key(config)) if announces else None

    async def main() -> None:
        lane = server.open_lane(wanted)
        link = Link(start.link) if start is not None else None
        status = Started(banner)
        place = start.place if start is not None else ALONE

        async def body(opened: "Runtime") -> None:
            if start is not None:
                # From here on the supervisor's link says when to stop. A signal to the whole group may come when this
                # worker has finished already, and would make of that a violent death.
                for number in (signal.SIGTERM, signal.SIGINT):
                    signal.signal(number, signal.SIG_IGN)
            with open_admin_sockets(config, first=place.first) as admin:
                await server.serve(
                    opened, sockets=sockets, lane=lane, admin=admin, load=load, link=link, task_status=status
                )

        await runtime.run(config, body, place, open_client=lane.open_client)

    try:
        with open_outlet():
            trio.run(main)
    finally:
        if banner is not None:
            banner.show_what_would_be_lost()


def _innermost(error: BaseException) -> BaseException:
    """The one error in the groups that nurseries make; a group of several stays one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class Started:
    """What is done once a process serves: the banner, if it shows one, and nothing of the start is looked at again."""

    def __init__(self, banner: "Banner | None") -> None:
        self._banner = banner

    def started(self, urls: list[str] | None = None) -> None:
        """Called by the server as its task status."""
        if self._banner is not None:
            self._banner.started(urls)
        # What was made for the start stays for good, and is most of what there is: the collector, which would look at
        # all of it again and again, costs a tenth of the CPU otherwise.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE_AT_OBJECTS, 10, 10)


class Banner:
    """Tells the person at the terminal, once the server has started, where it is and what to type next."""

    def __init__(self, config: Config, first_key: str | None) -> None:
        self._config = config
        self._first_key = first_key
        self._shown = False

    def started(self, urls: list[str] | None = None) -> None:
        """Print it. Called by the server as its task status."""
        try:
            click.echo(encode_banner(self._config, list(urls or ()), self._first_key))
        except BrokenPipeError:
            # Whoever read our output has gone; the gateway serves all the same. What is buffered has no reader.
            sys.stdout = None
        self._shown = True

    def show_what_would_be_lost(self) -> None:
        """Print a key that was made for a start that then failed: nothing would ever show it again."""
        if self._first_key is not None and not self._shown:
            click.echo(f"The start failed, but a first key was made, and is shown this once: {self._first_key}")


def encode_banner(config: Config, urls: list[str], first_key: str | None) -> str:
    """What `serve` prints at its start. The first key is shown here and never again."""
    url = _reachable(urls[0]) if urls else ""
    enabled = [name for name, provider in config.providers.items() if provider.enabled]
    more = f" and {len(enabled) - SHOWN_PROVIDERS} more" if len(enabled) > SHOWN_PROVIDERS else ""
    lines = [
        f"SecureLLM Bridge {__version__} on {' and '.join(urls)}",
        f"  config     {config.source or 'no file: defaults and environment'}",
        f"  providers  {', '.join(enabled[:SHOWN_PROVIDERS]) or 'none enabled; see: securellm info openai'}{more}",
        f"  docs       {url}/docs",
        f"  key        {_key_line(config, first_key)}",
    ]
    model = _first_model(config, enabled)
    if model is not None:
        lines += ["", "Try it:", f"  {encode_curl(url, model, _shown_key(config, first_key))}"]
    return "\n".join(lines)


def encode_curl(url: str, model: str, key: str | None) -> str:
    """A curl line that works as it is, in any POSIX shell."""
    import json

    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}]}, separators=(",", ":"))
    parts = ["curl", f"{url}/v1/chat/completions", "-H", "content-type: application/json"]
    if key is not None:
        parts += ["-H", f"authorization: Bearer {key}"]
    quoted = " ".join(shlex.quote(part) for part in [*parts, "-d", body])
    # A variable has to stay outside single quotes.
    return quoted.replace("'authorization: Bearer $SECURELLM_API_KEY'", '"authorization: Bearer $SECURELLM_API_KEY"')


def _key_line(config: Config, first_key: str | None) -> str:
    if first_key is not None:
        return f"{first_key}  (made now, for an admin; shown this once)"
    if not config.security.require_auth:
        return "none needed: authentication is off"
    return "one that you have; securellm keys create makes another"


def _shown_key(config: Config, first_key: str | None) -> str | None:
    if first_key is not None:
        return first_key
    return "$SECURELLM_API_KEY" if config.security.require_auth else None


def _first_model(config: Config, enabled: list[str]) -> str | None:
    """A model to try: the demo's, else the first that is known of the first provider that has any."""
    from securellm.chat import Endpoint
    from securellm.providers.registry import describe_providers
    from securellm.providers.shipped import load_shipped
    from securellm.routing import Catalogue

    if "demo" in enabled:
        return DEMO_MODEL
    if config.auto.targets:
        return "auto"
    providers = describe_providers(config)
    cards = Catalogue(config, providers, load_shipped()).models()
    return next((card.id for card in cards if Endpoint.CHAT in providers[card.provider].endpoints), None)


def _reachable(url: str) -> str:
    """An address that a client can be given: a wildcard is where one listens, not where one connects."""
    substitutes: Mapping[str, str] = {"://0.0.0.0:": "://127.0.0.1:", "://[::]:": "://[::1]:"}
    for wildcard, loopback in substitutes.items():
        url = url.replace(wildcard, loopback)
    return url
