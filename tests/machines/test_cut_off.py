"""A machine that is cut off from Redis, or from the store: it keeps to its policy, and comes back by itself."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import trio

from rig import script, speech
from rig.crowd import Asked, Crowd, most_over, percentiles, until_so
from rig.doors import CHAT
from rig.fake_provider import FakeProvider
from rig.machines import MAX_STALE_S, OUTPUT_NUSD, REDIS, STORE, Machine, Site
from rig.scale import SCALE
from rig.waiting import until_true

pytestmark = [
    pytest.mark.slow,
    pytest.mark.tool("ip"),
    pytest.mark.tool("redis-server"),
    pytest.mark.tool("postgres"),
]

NO_WAIT_S = 1.0  # the promise is 100 ms, which is measured and noted; a shared machine may be slow
FREE = CHAT.body("openai/free", max_tokens=1000)
DEAR = CHAT.body("openai/dear", max_tokens=1000)
UNKNOWN = "slb_aaaaaaaa_" + "x" * 43
RELOADED = " is in force"  # in the log
SAID = script.answer(200, speech.CHAT.whole("Hello"))


@pytest.fixture
async def whole(site: Site, shared_provider: FakeProvider) -> AsyncIterator[Site]:
    """The site with every cable plugged in, before and after; its provider answers."""
    shared_provider.default = SAID
    yield site
    for machine in site.machines:
        machine.mend(REDIS)
        machine.mend(STORE)
        await until_redis(machine, site.admin_key, "healthy")
        await until_status(machine, site.admin_key, FREE, 200)


async def redis_status(machine: Machine, key: str) -> tuple[str, str]:
    """Of the gateway as a whole, and of its Redis."""
    health = (await machine.get("/api/health", key)).json()
    return health["status"], health["redis"]["status"]


async def until_redis(machine: Machine, key: str, status: str) -> float:
    """How long it took until the gateway said so."""

    async def is_so() -> bool:
        return (await redis_status(machine, key))[1] == status

    return await until_so(is_so)


async def until_status(machine: Machine, key: str, body: bytes, status: int) -> float:
    """How long it took until a request was answered so."""
    crowd = Crowd(key, body)

    async def is_so() -> bool:
        return (await crowd.ask(machine.open_client)).status == status

    return await until_so(is_so)


async def redis_state(machine: Machine, key: str) -> float:
    """What the metrics say of it."""
    text = (await machine.get("/api/metrics", key)).body.decode()
    line = next(line for line in text.splitlines() if line.startswith("securellm_redis_state "))
    return float(line.split()[1])


async def reload(machine: Machine, sections: Mapping[str, Any]) -> None:
    """Its gateway serves with other settings when this returns."""
    said = machine.output.count(RELOADED)
    machine.rewrite(sections)
    machine.reload()
    await until_true(lambda: machine.output.count(RELOADED) > said, look_every_s=0.02)


def since(calls: list[Asked], start_s: float, end_s: float) -> list[Asked]:
    """Those that were asked in that time."""
    return [call for call in calls if start_s <= call.asked_s < end_s]


async def test_without_redis_a_machine_keeps_to_its_part(whole: Site, note) -> None:
    """Cut off, it lets its part of a limit through and keeps nobody waiting; the other goes on; then all is well."""
    one, two = whole.machines
    admin = one.administrator(whole.admin_key)
    with trio.fail_after(90):
        limited = (await admin.do("POST", "/api/admin/keys", {"rates": {"rpm": 600, "burst": 20}}))["key"]
        roomy = (await admin.do("POST", "/api/admin/keys", {"rates": {"rpm": 600_000, "burst": 10_000}}))["key"]
        for machine in whole.machines:
            for key in (limited, roomy):
                await until_status(machine, key, FREE, 200)
        crowds = {machine: Crowd(limited, FREE) for machine in whole.machines}
        unhindered = Crowd(roomy, FREE)
        async with trio.open_nursery() as nursery:
            for machine, crowd in crowds.items():
                for _ in range(2):
                    nursery.start_soon(crowd.keep_asking, machine.open_client, 0.02)
            for _ in range(3):
                nursery.start_soon(unhindered.keep_asking, one.open_client, 0.02)
            began_s = trio.current_time()
            await trio.sleep(max(1.0, 3 * SCALE))
            cut_s = trio.current_time()
            one.cut(REDIS)
            noticed_s = await until_redis(one, whole.admin_key, "unhealthy")
            assert (await redis_status(one, whole.admin_key))[0] == "degraded"
            assert await redis_state(one, whole.admin_key) in (1.0, 2.0)
            assert (await redis_status(two, whole.admin_key))[1] == "healthy"
            assert (await one.get("/readyz", whole.admin_key)).status == 200
            await trio.sleep(max(2.0, 6 * SCALE))
            mended_s = trio.current_time()
            one.mend(REDIS)
            recovered_s = await until_redis(one, whole.admin_key, "healthy")
            await trio.sleep(0.5)
            for crowd in (*crowds.values(), unhindered):
                crowd.stopping = True
    for crowd in (*crowds.values(), unhindered):
        assert set(crowd.statuses()) <= {200, 429}
    assert set(unhindered.statuses()) == {200}
    alone = since(crowds[one].answered(), cut_s + noticed_s, mended_s)
    over = most_over(alone, 5, 10)
    before, cut = since(unhindered.calls, began_s, cut_s), since(unhindered.calls, cut_s, mended_s)
    note(
        noticed_after_s=round(noticed_s, 2),
        recovered_after_s=round(recovered_s, 2),
        let_in_alone=f"{len(alone)} in {mended_s - cut_s - noticed_s:.1f} s at half of 10/s",
        before_the_cut=percentiles(before),
        cut_off=percentiles(cut),
    )
    assert over <= 0.5
    assert len(alone) >= 0.7 * 5 * (mended_s - cut_s - noticed_s) - 2
    assert max(call.took_s for call in cut) < max(call.took_s for call in before) + NO_WAIT_S
    assert recovered_s < 5
    limited_by_both = since(crowds[two].answered(), cut_s, mended_s)
    assert most_over(limited_by_both, 10, 20) <= 0.5


async def test_a_machine_that_may_not_serve_uncounted(whole: Site, note) -> None:
    """With `refuse` it answers 503 with its own code while it is cut off, at once, and serves within 5 s afterwards."""
    one, two = whole.machines
    made = await one.administrator(whole.admin_key).do("POST", "/api/admin/keys", {"rates": {"rpm": 6000}})
    key = made["key"]
    with trio.fail_after(90):
        for machine in whole.machines:
            await until_status(machine, key, FREE, 200)
        await reload(one, whole.sections(one, when_unreachable="refuse"))
        one.cut(REDIS)
        await until_status(one, key, FREE, 503)
        crowd = Crowd(key, FREE)
        for _ in range(20):
            await crowd.ask(one.open_client)
            assert (await crowd.ask(two.open_client)).status == 200
        one.mend(REDIS)
        served_s = await until_status(one, key, FREE, 200)
        await reload(one, whole.sections(one))
    refused = crowd.answered(503)
    note(refused=percentiles(refused), served_again_after_s=round(served_s, 2))
    assert len(refused) == 20
    assert {(call.code, call.retry_after) for call in refused} == {("limits_unavailable", "1")}
    assert max(call.took_s for call in refused) < NO_WAIT_S
    assert served_s < 5


async def test_without_the_store(whole: Site, note) -> None:
    """Known keys go on until the snapshot is too old, then 503, never 401; budgets refuse; all is well within 2 s."""
    one, two = whole.machines
    admin = one.administrator(whole.admin_key)
    with trio.fail_after(90):
        known = await admin.do("POST", "/api/admin/keys", {"name": "known"})
        spender = await admin.do("POST", "/api/admin/keys", {"name": "spender"})
        budget = {"kind": "key", "subject": spender["id"], "limit_nusd": 60 * 1000 * OUTPUT_NUSD}  # too little to lease
        await admin.do("PUT", "/api/admin/budgets", budget)
        for machine in whole.machines:
            await until_status(machine, known["key"], FREE, 200)
            await until_status(machine, spender["key"], DEAR, 200)
        crowd, spending = Crowd(known["key"], FREE), Crowd(spender["key"], DEAR)
        new, other = Crowd(UNKNOWN, FREE), Crowd(known["key"], FREE)
        async with trio.open_nursery() as nursery:
            for asking in (crowd, spending, new):
                nursery.start_soon(asking.keep_asking, one.open_client, 0.05)
            nursery.start_soon(other.keep_asking, two.open_client, 0.05)
            await trio.sleep(0.5)
            cut_s = trio.current_time()
            one.cut(STORE)
            await trio.sleep(MAX_STALE_S + 4)
            mended_s = trio.current_time()
            one.mend(STORE)
            await trio.sleep(2.5)
            for asking in (crowd, spending, new, other):
                asking.stopping = True
    assert set(crowd.statuses()) == {200, 503}
    assert {call.code for call in crowd.answered(503)} == {"store_unavailable"}
    good_s = max(call.asked_s for call in since(crowd.answered(), cut_s, mended_s)) - cut_s
    recovered_s = {
        name: max(call.asked_s for call in asking.calls if call.status == 503) - mended_s
        for name, asking in {"a known key": crowd, "a budget": spending, "an unknown key": new}.items()
    }
    unavailable = [call for call in spending.answered(503) if call.code == "budgets_unavailable"]
    note(
        known_key_good_for_s=round(good_s, 2),
        recovered_after_s={name: round(after_s, 2) for name, after_s in recovered_s.items()},
        known_key_while_cut_off=percentiles(since(crowd.calls, cut_s, mended_s)),
        budget_refused=percentiles(unavailable),
        unknown_key_still_401_for_s=round(max(c.asked_s for c in since(new.answered(401), 0, mended_s)) - cut_s, 2),
    )
    assert MAX_STALE_S - 1.5 < good_s < MAX_STALE_S + 1.5  # counted from the last good read
    assert unavailable
    assert set(spending.statuses()) == {200, 503}
    assert set(new.statuses()) == {401, 503}
    assert set(other.statuses()) == {200}
    assert max(call.took_s for asking in (crowd, spending, new) for call in asking.calls) < NO_WAIT_S
    assert max(recovered_s.values()) < 2
