"""count_tokens where the provider has no such endpoint: exact where the encoding is public, off the loop when large."""

import json

import trio

from rig import doors, script, speech
from rig.raw_client import open_client
from securellm.chat import Status
from securellm.tokens import count_tokens

WRAPPING = 3 + 3 + 1  # of the reply, of the message, its role


async def test_an_openai_model_is_counted(gateway, provider):
    """The model's encoding is public: the count is exact, says so, and nobody is asked."""
    with trio.fail_after(10):
        body = doors.COUNT_TOKENS.body("openai/gpt-4o", messages=[{"role": "user", "content": "Hello, world!"}])
        response = await gateway.ask(doors.COUNT_TOKENS, body)
        assert response.status == 200, response
        assert response.json() == {"input_tokens": WRAPPING + count_tokens("Hello, world!", "o200k_base")}
        assert response.header("x-securellm-usage-source") == "counted"
        assert provider.asked == []
        assert (await gateway.only_settlement()).outcome.status is Status.SUCCESS


async def test_a_large_one_is_counted_in_a_thread(gateway, provider):
    """Megabytes are counted to the same figure, while other requests are answered."""
    text = "Say it again. " * 200_000
    provider.enqueue(*script.answer(200, speech.CHAT.whole("Hello")))
    with trio.fail_after(30):
        body = doors.COUNT_TOKENS.body("openai/gpt-4", messages=[{"role": "user", "content": text}])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gateway.ask, doors.CHAT, doors.CHAT.body("m1"), {"x-provider": "openai"})
            response = await gateway.ask(doors.COUNT_TOKENS, body)
        assert response.json() == {"input_tokens": WRAPPING + count_tokens(text, "cl100k_base")}
        assert response.header("x-securellm-usage-source") == "counted"


async def test_who_hangs_up_is_not_waited_for(gateway, provider):
    """A caller that leaves while its body is being counted is settled at once, and the next one is served."""
    text = json.dumps([{"role": "user", "content": " " * 8_000_000}]).encode()
    body = b'{"model": "openai/gpt-4o", "messages": ' + text + b"}"
    with trio.fail_after(30):
        async with open_client(gateway.base_url) as client:
            await client.request("POST", doors.COUNT_TOKENS.path, body, doors.COUNT_TOKENS.auth())
        left = await gateway.settled()
        assert left.outcome.status is Status.CANCELLED
        response = await gateway.ask(doors.COUNT_TOKENS, doors.COUNT_TOKENS.body("openai/gpt-4o"))
        assert response.status == 200
        assert (await gateway.settled(2)).outcome.status is Status.SUCCESS
