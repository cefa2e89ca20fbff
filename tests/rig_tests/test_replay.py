"""The replay server runs as a process and serves what is queued."""

import pytest
import trio

from rig.raw_client import fetch
from rig.replay import load_recordings, open_replay

pytestmark = pytest.mark.corpus


async def test_serves_what_is_queued():
    """A queued recording is answered byte for byte, whatever the path."""
    recording = next(r for r in load_recordings("chat.completions") if r.streamed)
    with trio.fail_after(30):
        async with open_replay(chunk="7") as replay:
            await replay.queue([recording.id])
            response = await fetch(replay.base_url, "POST", "/v1/chat/completions", recording.request)
            assert response.body == recording.response
            assert [entry["case"] for entry in await replay.log()] == [recording.id]
