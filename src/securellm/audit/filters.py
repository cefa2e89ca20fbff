"""Which records somebody asks for. Pure."""

import msgspec


class Head(msgspec.Struct, frozen=True):
    """What of a line filters look at; the rest of it is not read."""

    seq: int
    slot: int
    timestamp: str
    event_type: str
    request_id: str | None = None
    user_id: str | None = None
    key_id: str | None = None
    provider: str | None = None
    model: str | None = None
    status: str | None = None
    action: str | None = None


class Filters(msgspec.Struct, frozen=True):
    """Every one that is given must hold. Moments are texts as records have them: `since` counts, `until` does not."""

    since: str | None = None
    until: str | None = None
    request_id: str | None = None
    user_id: str | None = None
    key_id: str | None = None
    provider: str | None = None
    model: str | None = None
    statuses: frozenset[str] = frozenset()  # empty: any
    event_types: frozenset[str] = frozenset()  # empty: any

    def match(self, head: Head) -> bool:
        """Whether the record is asked for."""
        return (
            (self.since is None or head.timestamp >= self.since)
            and (self.until is None or head.timestamp < self.until)
            and (self.request_id is None or head.request_id == self.request_id)
            and (self.user_id is None or head.user_id == self.user_id)
            and (self.key_id is None or head.key_id == self.key_id)
            and (self.provider is None or head.provider == self.provider)
            and (self.model is None or head.model == self.model)
            and (not self.statuses or head.status in self.statuses)
            and (not self.event_types or head.event_type in self.event_types)
        )
