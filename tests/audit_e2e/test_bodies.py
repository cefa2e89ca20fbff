"""A body that cannot be recorded withholds the answer, and the record says what the caller really got."""

import json
from pathlib import Path

import pytest
import trio

from rig import doors, script, speech


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_body_that_cannot_be_recorded_is_no_success(serving, provider, stream: bool):
    """Mode `full`, strict, nowhere to write: 503 or an error event, and a closing record that is no success."""
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, audit={"content": "full"})
        Path(gateway.config.log_dir, "content").write_text("in the way")
        events = speech.CHAT.events(("Hel", "lo"))
        provider.enqueue(*(script.stream(events) if stream else script.answer(200, speech.CHAT.whole("Hello"))))
        response = await gateway.ask(doors.CHAT, doors.CHAT.body("openai/m1", stream=stream))
        if stream:
            assert b"data: [DONE]" not in response.body
            assert doors.CHAT.error_event_of(response.body)["code"] == "audit_unavailable"
        else:
            assert response.status == 503
        settlement = await gateway.only_settlement()
        assert settlement.outcome.error_code == "audit_unavailable"
        await gateway.stop()
    lines = b"".join(path.read_bytes() for path in Path(gateway.config.log_dir).glob("audit.*.log")).splitlines()
    closing = [record for record in map(json.loads, lines) if "status" in record]
    assert [(record["event_type"], record["status"]) for record in closing] == [("request_failed", "failed")]
