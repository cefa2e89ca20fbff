"""In which order `auto` asks its targets."""

import pytest
import trio

from rig import doors, script, speech


@pytest.mark.parametrize(("order", "asked"), [("list", "openai"), ("price", "compat")])
async def test_the_cheapest_target_is_asked_first(serving, provider, second_provider, order, asked):
    """By price, a cheap target that is listed last is asked; by list, the first one is."""
    for fake in (provider, second_provider):
        fake.default = script.answer(200, speech.CHAT.whole("Hello"))
    with trio.fail_after(20):
        gateway = await serving(
            {"openai": provider, "compat": second_provider},
            auto={"targets": ["openai/m1", "compat/m1"], "order": order},
            models={
                "openai/m1": {"input_usd_per_mtok": 5.0, "output_usd_per_mtok": 5.0},
                "compat/m1": {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 9.0},
            },
        )
        assert (await gateway.ask(doors.CHAT, doors.CHAT.body("auto"))).status == 200
        assert (await gateway.only_settlement()).provider == asked
