"""Floods of events are folded by address, in bounded memory, and no count is lost."""

from hypothesis import given
from hypothesis import strategies as st

from rig.audit_log import START_US, event
from securellm.audit.folding import Folding


def test_one_line_an_address_with_a_count() -> None:
    """The line has the time of the first event, and how many there were."""
    folding = Folding()
    assert not folding
    for number in range(5):
        folding.note(event("authentication_failed", START_US + number, client_ip="192.0.2.1"))
    folding.note(event("authentication_failed", START_US + 2, client_ip="192.0.2.2"))
    folding.note(event("limit_reached", START_US + 1, client_ip="192.0.2.1"))
    assert folding
    assert [(line.action, line.client_ip, line.count) for line in folding.take()] == [
        ("authentication_failed", "192.0.2.1", 5),
        ("limit_reached", "192.0.2.1", 1),
        ("authentication_failed", "192.0.2.2", 1),
    ]
    assert not folding
    assert folding.take() == []


def test_too_many_addresses_share_a_line() -> None:
    """The address that was quiet for longest gives its count to a line without an address."""
    folding = Folding(max_addresses=2)
    for address in ("a", "b", "a", "c", "d"):
        folding.note(event("authentication_failed", client_ip=address, detail={"reason": address}))
    lines = {line.client_ip: (line.count, line.detail) for line in folding.take()}
    assert lines == {"c": (1, {"reason": "c"}), "d": (1, {"reason": "d"}), None: (3, None)}


@given(st.lists(st.tuples(st.sampled_from(["x", "y"]), st.integers(0, 9), st.integers(1, 3))), st.integers(1, 4))
def test_no_count_is_lost(noted: list[tuple[str, int, int]], most: int) -> None:
    """For any events, the counts of the lines of an action add up, and the lines are bounded."""
    folding = Folding(max_addresses=most)
    for action, address, count in noted:
        folding.note(event(action, client_ip=f"{address}", count=count))
    lines = folding.take()
    assert len(lines) <= most + 2
    for action in ("x", "y"):
        told = sum(line.count or 0 for line in lines if line.action == action)
        assert told == sum(count for one, _, count in noted if one == action)
