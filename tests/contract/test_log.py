"""What the operational log says of a request to whoever is given its id."""

import trio

from rig import doors, script, speech


async def test_a_failure_is_found_by_the_id_that_the_caller_was_given(serving, provider, caplog):
    """The line of a failed request carries the `x-request-id` of its answer, and not what the provider said."""
    provider.default = script.answer(401, speech.CHAT.error(401, "bad key of some-tenant"))
    with trio.fail_after(10), caplog.at_level("INFO", logger="securellm.requests"):
        gateway = await serving({"openai": provider})
        answer = await gateway.ask(doors.CHAT, doors.CHAT.body("openai/m1"))
        assert answer.status == 502
        (record,) = [record for record in caplog.records if record.name == "securellm.requests"]
        assert record.levelname == "WARNING"
        assert record.fields["request_id"] == answer.header("x-request-id")
        assert record.fields["error_code"] == "upstream_auth"
        assert record.fields["attempts"] == ["upstream_auth"]
        assert "some-tenant" not in str(record.fields) + record.getMessage()
