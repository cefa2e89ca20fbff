"""One connection to whatever runs Redis: a server, a sentinel's master, a cluster. Alone knows redis-py.

redis-py is imported when the first connection is made, in the worker's thread: a gateway without Redis never loads it,
and one with it does not wait. Its own retries are off, because the breaker decides when to ask again; its maintenance
notices (a feature of one vendor's servers) are off, because they change timeouts behind our back. What it raises is
mapped here, to texts of our own: an error of Redis may quote the command, and one of a connection the URL.
"""

import contextlib
from collections.abc import Sequence
from typing import Any, NoReturn

from securellm.redis_link.commands import Asked, RedisUnavailable, Reply, Word
from securellm.redis_link.url import Place

REPLY_S = 0.5  # for the worker's thread to wait for one answer; callers have given up long before
CLIENT_NAME = "securellm"


class Connection:
    """Blocking, for the worker's thread alone; after an exception it is closed and another one made."""

    def __init__(self, place: Place, *, connect_timeout_s: float) -> None:
        self._client = _client(place, connect_timeout_s)

    def ping(self) -> None:
        """Ask for a sign of life; connects first. Raises RedisUnavailable."""
        try:
            self._client.ping()
        except Exception as exc:  # whatever a library of the network raises
            _raise(exc)

    def ship(self, batch: Sequence[Asked]) -> list[Reply | RedisUnavailable]:
        """Send all in one go; the answers in the same order. Raises RedisUnavailable when there are none."""
        replies = self._execute([_words(asked) for asked in batch])
        unknown = [place for place, reply in enumerate(replies) if _is_unknown_script(reply)]
        if unknown:
            again = self._execute([_words(batch[place], whole=True) for place in unknown])
            for place, reply in zip(unknown, again, strict=True):
                replies[place] = reply
        return [RedisUnavailable(_refusal(reply)) if isinstance(reply, Exception) else reply for reply in replies]

    def close(self) -> None:
        """Drop it. Never raises, never waits for the server."""
        with contextlib.suppress(Exception):  # a connection that fails at its end is at its end
            self._client.close()

    def _execute(self, commands: list[list[Word]]) -> list[Any]:
        try:
            pipeline = self._client.pipeline(transaction=False)
            for words in commands:
                pipeline.execute_command(*words)
            return list(pipeline.execute(raise_on_error=False))
        except Exception as exc:
            _raise(exc)


def _words(asked: Asked, *, whole: bool = False) -> list[Word]:
    if asked.script is None:
        return list(asked.words)
    if whole:
        return ["EVAL", asked.script.source, *asked.words]
    return ["EVALSHA", asked.script.sha, *asked.words]


def _client(place: Place, connect_timeout_s: float) -> Any:
    from redis import Redis, RedisCluster
    from redis.backoff import NoBackoff
    from redis.cluster import ClusterNode
    from redis.maint_notifications import MaintNotificationsConfig
    from redis.retry import Retry
    from redis.sentinel import Sentinel

    settings: dict[str, Any] = {
        "username": place.username,
        "password": place.password,
        "socket_connect_timeout": connect_timeout_s,
        "socket_timeout": REPLY_S,
        "client_name": CLIENT_NAME,
        "retry": Retry(NoBackoff(), 0),
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        **dict(place.options),
    }
    if place.tls:
        settings["ssl"] = True
    try:
        match place.kind:
            case "redis+cluster":
                node: Any = ClusterNode  # redis-py has types for parts of itself only
                return RedisCluster(startup_nodes=[node(*address) for address in place.addresses], **settings)
            case "redis+sentinel":
                theirs = {**settings, "username": place.sentinel_username, "password": place.sentinel_password}
                sentinels: Any = Sentinel  # as above
                return sentinels(place.addresses, sentinel_kwargs=theirs).master_for(
                    place.service, db=place.db, **settings
                )
            case "unix":
                return Redis(unix_socket_path=place.path, db=place.db, **settings)
            case _:
                (address,) = place.addresses
                return Redis(address.host, address.port, db=place.db, **settings)
    except Exception as exc:  # a cluster is connected to at once
        _raise(exc)


def _is_unknown_script(reply: object) -> bool:
    from redis.exceptions import NoScriptError

    return isinstance(reply, NoScriptError)


def _raise(exc: Exception) -> NoReturn:
    """Map it; `from None`, because a traceback would repeat its text, and so what the text quotes."""
    reason = _reason(exc)
    del exc
    raise RedisUnavailable(reason) from None


def _reason(exc: Exception) -> str:
    from redis import exceptions

    match exc:
        case exceptions.AuthenticationError() | exceptions.AuthenticationWrongNumberOfArgsError():
            return "it refuses the user or the password"
        case exceptions.NoPermissionError():
            return "the user may not do this there (NOPERM)"
        case exceptions.BusyLoadingError():
            return "it is loading its data"
        case exceptions.TimeoutError() | TimeoutError():
            return "it does not answer"
        case exceptions.ResponseError():
            return _refusal(exc)
        case exceptions.ConnectionError() | OSError():
            return f"no connection ({_cause(exc)})"
    return f"it cannot be asked ({type(exc).__name__})"


def _refusal(error: Exception) -> str:
    """Redis begins an error with its code in capitals; what follows may quote the command."""
    code = str(error).partition(" ")[0]
    if code.isascii() and code.isalpha() and code.isupper() and len(code) <= 20:
        return f"it refuses ({code})"
    return f"it refuses ({type(error).__name__})"


def _cause(exc: BaseException) -> str:
    """The name of what lies at the bottom of it: ConnectionRefusedError, gaierror, SSLCertVerificationError …"""
    while (inner := exc.__cause__ or exc.__context__) is not None and inner is not exc:
        exc = inner
    return type(exc).__name__
