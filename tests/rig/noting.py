"""Whose key is in a head: told by the head alone, and by the notes on an earlier one that said the same."""

from typing import Any

import trio

from securellm.accounts.snapshot import Accounts
from securellm.chat import Call, Caller, Endpoint, Headers, HeadNotes, RequestId
from securellm.errors import SecureLLMError

_notes: dict[tuple[tuple[bytes, bytes], ...], HeadNotes] = {}
_NO_BODY: Any = None


def identify_twice(accounts: Accounts, headers: Headers) -> Caller:
    """As `Accounts.identify`; the notes are those of every head that said the same, whoever was asked about it."""
    told = _told(lambda: accounts.identify(headers))
    notes = _notes.setdefault(tuple(headers), HeadNotes())
    call = Call(Endpoint.CHAT, "/", headers, _NO_BODY, "", RequestId("r"), trio.current_time(), notes)
    noted = _told(lambda: accounts.identify_caller(call))
    if isinstance(told, SecureLLMError):
        assert isinstance(noted, SecureLLMError), noted
        assert (noted.code, noted.message) == (told.code, told.message)
        raise told
    assert noted is told
    return told


def _told(identify: Any) -> Caller | SecureLLMError:
    try:
        caller: Caller = identify()
    except SecureLLMError as error:
        return error
    return caller
