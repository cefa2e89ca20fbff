"""What the log records of one request's bodies, by its door's content mode: nothing, hashes, or the bodies sealed.

Hashes are at hand whenever a request is settled, also when its caller went away. Sealed bodies are only of requests
that were answered to their end, because sealing waits for the disk and settling does not.
"""

from securellm.audit.content import ContentStore, Kept, keep_body, mode_of
from securellm.audit.entries import NO_HASHES, Hashes
from securellm.chat import Endpoint
from securellm.config.tree import Audit
from securellm.errors import AuditUnavailable


class Bodies:
    """The bodies of one request."""

    __slots__ = ("_answer", "_mode", "_recorder", "_request", "_sealed")

    def __init__(self, recorder: "BodyRecorder", mode: str, request: Kept) -> None:
        self._recorder = recorder
        self._mode = mode
        self._request = request
        self._answer = Kept(mode)
        self._sealed: Hashes | None = None

    @property
    def records(self) -> bool:
        """Whether anything of the bodies is recorded."""
        return self._mode != "none"

    def answered(self, data: bytes) -> None:
        """The next bytes of the answer, as the caller gets them."""
        if self._mode != "none" and data:
            self._answer.feed(data)

    async def seal(self, request_id: str) -> None:
        """Have the bodies on disk, if the mode keeps them. Raises AuditUnavailable, in strict mode only."""
        if self._mode != "none" and self._sealed is None:
            self._sealed = await self._recorder.seal(request_id, self._mode, self._request, self._answer)

    @property
    def hashes(self) -> Hashes:
        """What the closing record says of them."""
        if self._mode == "none":
            return NO_HASHES
        if self._sealed is not None:
            return self._sealed
        answered = self._answer.sha256() if self._answer.size_bytes else None
        return Hashes(request=self._request.sha256(), answer=answered)


class BodyRecorder:
    """Records bodies as the configuration says; `store` is None where no door keeps them."""

    def __init__(self, audit: Audit, store: ContentStore | None) -> None:
        self._audit = audit
        self._store = store
        self._modes = {endpoint: mode_of(audit.content, endpoint) if audit.enabled else "none" for endpoint in Endpoint}
        self._unrecorded = Bodies(self, "none", Kept("none"))  # which never change, so that all may have the same

    def unrecorded(self, endpoint: Endpoint) -> Bodies | None:
        """The bodies of any request at a door of whose bodies nothing is recorded; None at another."""
        return self._unrecorded if self._modes[endpoint] == "none" else None

    async def open(self, endpoint: Endpoint, body: bytes) -> Bodies:
        """The bodies of a request whose own has been read."""
        mode = self._modes[endpoint]
        if mode == "none":
            return self._unrecorded
        return Bodies(self, mode, await keep_body(mode, body))

    async def seal(self, request_id: str, mode: str, request: Kept, answer: Kept) -> Hashes | None:
        """Both bodies on disk; None when nothing is kept, or when the disk refused in relaxed mode."""
        if self._store is None or mode == "hash":
            return None
        try:
            return await self._store.seal_both(request_id, mode, request, answer)
        except AuditUnavailable:
            if self._audit.mode == "strict":
                raise
            return None
