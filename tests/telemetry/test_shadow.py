"""Shadow mode's lines in the log: few, and nothing is left out of the count."""

import logging

import pytest

from securellm.telemetry.shadow import ShadowLog


def test_a_flood_is_a_line_a_second(caplog: pytest.LogCaptureFixture) -> None:
    """The first is told at once; those that follow within a second are told together."""
    now_s = [100.0]
    shadow = ShadowLog(lambda: now_s[0])
    with caplog.at_level(logging.WARNING, "securellm.limits"):
        for _ in range(1000):
            shadow.tell("key", "k1234567", "requests")
        now_s[0] += 1.0
        shadow.tell("model", "m" * 5000, "tokens")
    assert [record.args[0] for record in caplog.records if record.args] == [1, 1000]
    assert caplog.messages[0].endswith("now requests of key 'k1234567'")
    assert len(caplog.messages[1]) < 250
