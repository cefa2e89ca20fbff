"""What a caller has to meet, what it is told when it does not, and what a request gives back when it ends."""

from typing import NamedTuple

import pytest

from rig.limit_stores import NOW_US
from securellm.chat import Caller, KeyId
from securellm.config.tree import RateLimit, Rates
from securellm.errors import LimitsUnavailable, OverCapacity, RateLimited
from securellm.limits.limiter import MAX_KNOWN, Hold, Limiter, Refusal
from securellm.limits.process import ProcessStore
from securellm.limits.quota import Demands, Denied, Levels, Never, Scope, Short, StoreStatistics
from securellm.wire.envelope import error_headers

CALLER = Caller(KeyId("k1234567"), "alice", team_id="red")
MODEL = "openai/gpt-5"


class OwnRates(NamedTuple):
    """What accounts say of a caller."""

    key: Rates | None = None
    user: Rates | None = None
    team: Rates | None = None


class Desk:
    """A limiter with its clock and what it reported."""

    def __init__(self, settings: RateLimit, own: OwnRates | None = None) -> None:
        self.now_us = NOW_US
        self.own = own or OwnRates()
        self.reports: list[Refusal] = []
        self.store = ProcessStore()
        self.limiter = Limiter(settings, self.store, lambda caller: self.own, lambda: self.now_us, self.reports.append)

    async def admit(self, tokens: int = 10, caller: Caller = CALLER, model: str = MODEL) -> Hold:
        """One request."""
        return await self.limiter.admit(caller, model, tokens)

    async def granted(self, times: int, tokens: int = 10) -> int:
        """How many of so many requests are let in, and stay."""
        count = 0
        for _ in range(times):
            try:
                await self.admit(tokens)
                count += 1
            except RateLimited:
                pass
        return count


def _limits(**settings: Rates | bool | dict[str, Rates]) -> RateLimit:
    return RateLimit(**({"providers": {}} | settings))  # type: ignore[arg-type]  # one of its fields each


@pytest.mark.parametrize(
    ("section", "scope", "subject"),
    [
        ("per_key", Scope.KEY, "k1234567"),
        ("per_user", Scope.USER, "alice"),
        ("per_team", Scope.TEAM, "red"),
        ("per_model", Scope.MODEL, MODEL),
    ],
)
async def test_every_scope_is_limited(section: str, scope: Scope, subject: str) -> None:
    """Each section of settings limits its own subject, and the refusal names it."""
    desk = Desk(_limits(**{section: Rates(60, 2)}))
    assert await desk.granted(2) == 2
    with pytest.raises(RateLimited) as caught:
        await desk.admit()
    assert caught.value.message == f"Rate limit exceeded for {scope.value}: {subject}"
    assert (caught.value.param, caught.value.retry_after_s) == (scope.value, 1.0)
    assert desk.reports == [Refusal(scope.value, subject, "requests", False)]


@pytest.mark.parametrize(
    ("own", "rates"),
    [
        (None, Rates(60, 3, 1000, 5)),
        (Rates(), Rates(60, 3, 1000, 5)),
        (Rates(rpm=120), Rates(120, None, 1000, 5)),
        (Rates(burst=9), Rates(60, 9, 1000, 5)),
        (Rates(tpm=0, concurrent=1), Rates(60, 3, 0, 1)),
        (Rates(0, None, 0, 0), None),
    ],
)
async def test_what_accounts_say_goes_over_the_settings(own: Rates | None, rates: Rates | None) -> None:
    """A field that the store of accounts leaves open is as the settings say; 0 is no limit; a burst is its rate's."""
    expected = Limiter(_limits(per_key=rates or Rates()), ProcessStore(), lambda caller: OwnRates(), lambda: 0)
    given = Desk(_limits(per_key=Rates(60, 3, 1000, 5)), OwnRates(key=own)).limiter
    assert given.demands(CALLER, MODEL) == expected.demands(CALLER, MODEL)
    assert bool(given.demands(CALLER, MODEL)) == (rates is not None)


async def test_models_of_their_own() -> None:
    """A model's own section comes before that of its provider's models, and both before the one for all."""
    desk = Desk(
        _limits(per_model=Rates(60, 1), models={"openai/*": Rates(60, 2), MODEL: Rates(60, 3), "groq/*": Rates(0)})
    )
    bursts = [
        [demand.quota.burst for demand in desk.limiter.demands(CALLER, model)]
        for model in (MODEL, "openai/other", "anthropic/x", "groq/free")
    ]
    assert bursts == [[3], [2], [1], []]


async def test_changed_rates_are_in_force_at_once() -> None:
    """What a caller has to meet is kept, and worked out anew when the accounts say something else."""
    desk = Desk(_limits())
    assert await desk.granted(5) == 5
    desk.own = OwnRates(user=Rates(60, 2))
    assert await desk.granted(5) == 2
    desk.own = OwnRates(user=Rates(60, 2))  # equal, but another object: nothing changes
    assert await desk.granted(5) == 0


async def test_what_is_kept_of_callers_is_bounded() -> None:
    """Models that a caller makes up do not fill the memory."""
    desk = Desk(_limits())
    for number in range(MAX_KNOWN + 10):
        await desk.admit(model=f"openai/{number}")
    assert len(desk.limiter._known) == 10


async def test_callers_without_a_key_share_one_bucket() -> None:
    """Where authentication is off everybody is one caller."""
    desk = Desk(_limits(per_key=Rates(60, 2)))
    for _ in range(2):
        await desk.admit(caller=Caller(None, None, "anonymous"))
    with pytest.raises(RateLimited, match="key: anonymous"):
        await desk.admit(caller=Caller(None, None, "anonymous"))


async def test_providers_are_limited_as_the_first_users_know_it() -> None:
    """Out of the box anthropic has a burst of 5; the refusal is a value and has the words that scripts look for."""
    desk = Desk(RateLimit())
    answers = [await (await desk.admit()).ask_provider("anthropic", 10) for _ in range(6)]
    assert answers[:5] == [None] * 5
    refused = answers[5]
    assert isinstance(refused, RateLimited)
    assert refused.message == "Rate limit exceeded for provider: anthropic"
    assert (refused.param, refused.type, refused.code) == ("anthropic", "rate_limit_exceeded", "rate_limit")
    assert refused.retry_after_s == 1.2
    assert await (await desk.admit()).ask_provider("groq", 10) is None


@pytest.mark.parametrize("shadow", [False, True])
async def test_what_needs_no_wait_is_taken_at_once(shadow: bool) -> None:
    """A share that is taken without waiting is the one that is waited for: the same answers, counts and reports."""
    settings = _limits(providers={"openai": Rates(60, 3, 1000, 4), "anthropic": Rates(60, 2)}, shadow=shadow)
    asking, taking = Desk(settings), Desk(settings)
    seen: list[list[object]] = [[], []]
    for provider, tokens in zip(["openai", "groq", "anthropic"] * 6, [10, 400, 5000] * 6, strict=True):
        for desk, answers, at_once in ((asking, seen[0], False), (taking, seen[1], True)):
            hold = await desk.admit()
            for name in (provider, "openai"):
                taken = at_once and hold.take_provider(name, tokens)
                refused = None if taken else await hold.ask_provider(name, tokens)
                answers += [name, str(refused), hold.headers(), desk.store.statistics()]
            hold.settle(tokens // 2)
            desk.now_us += 300_000
    assert seen[0] == seen[1]
    assert asking.reports == taking.reports
    assert any(answer == "None" for answer in seen[0])
    assert bool(asking.reports)


async def test_what_is_taken_at_once() -> None:
    """The first attempt's share, if it is there; never a second one's, and nothing of what would be refused."""
    desk = Desk(_limits(providers={"openai": Rates(60, 1)}))
    hold = await desk.admit()
    assert hold.take_provider("openai", 1)
    assert not hold.take_provider("openai", 1)
    other = await desk.admit()
    assert not other.take_provider("openai", 1)
    assert desk.reports == []
    assert other.take_provider("groq", 1)


async def test_every_attempt_counts_at_its_provider() -> None:
    """A second attempt at the same provider takes again; tokens and the place of the first are returned."""
    desk = Desk(_limits(providers={"openai": Rates(60, 2, 1000, 1)}))
    hold = await desk.admit(1000)
    assert await hold.ask_provider("openai", 1000) is None
    assert await hold.ask_provider("openai", 1000) is None
    third = await hold.ask_provider("openai", 1000)
    assert isinstance(third, RateLimited)
    hold.settle(None)
    desk.now_us += 1_000_000
    assert await (await desk.admit()).ask_provider("openai", 1000) is None


async def test_a_request_that_no_provider_could_take_is_not_counted() -> None:
    """Waiting for the provider is enough: the caller's own buckets have nothing of the refused request."""
    desk = Desk(_limits(per_key=Rates(1, 1, 100), providers={"openai": Rates(60, 1)}))
    other = Caller(KeyId("other123"), None)
    assert await (await desk.admit(caller=other)).ask_provider("openai", 10) is None
    hold = await desk.admit(100)
    refused = await hold.ask_provider("openai", 100)
    assert isinstance(refused, RateLimited)
    assert refused.retry_after_s == 1.0
    hold.settle(None)
    desk.now_us += 1_000_000
    assert await (await desk.admit(100)).ask_provider("openai", 100) is None


async def test_a_request_that_a_provider_took_is_counted() -> None:
    """Though its tokens come back when the provider failed, the request was made."""
    desk = Desk(_limits(per_key=Rates(1, 1, 100), providers={"openai": Rates(60, 9), "groq": Rates(60, 9)}))
    hold = await desk.admit(100)
    assert await hold.ask_provider("openai", 100) is None
    assert await hold.ask_provider("groq", 100) is None
    hold.settle(None)
    refused = desk.limiter.would_allow(CALLER, MODEL, 100)
    assert isinstance(refused, RateLimited)
    assert refused.message == "Rate limit exceeded for key: k1234567"
    assert refused.retry_after_s == 60.0


async def test_tokens_are_trued_up() -> None:
    """After the answer the buckets hold what was really used, less or more than was reserved."""
    desk = Desk(_limits(per_key=Rates(tpm=60_000), providers={"openai": Rates(tpm=60_000)}))
    for used, expected_s in [(10_000, 10), (None, 10), (25_000, 35)]:
        hold = await desk.admit(20_000)
        assert await hold.ask_provider("openai", 20_000) is None
        hold.settle(used)
        for demand in desk.limiter.demands(CALLER, MODEL):
            assert desk.store._tats_us[demand.bucket] - desk.now_us == expected_s * 1_000_000


async def test_a_report_of_nonsense_does_not_lock_a_bucket_for_good() -> None:
    """However many tokens a provider says it used, the caller waits an hour at most beyond its reservation."""
    desk = Desk(_limits(per_key=Rates(tpm=60)))
    (await desk.admit(60)).settle(10**18)
    with pytest.raises(RateLimited) as caught:
        await desk.admit(60)
    assert caught.value.retry_after_s == 3660.0


async def test_settling_twice_gives_back_once() -> None:
    """The second call does nothing."""
    desk = Desk(_limits(per_key=Rates(concurrent=2)))
    first = await desk.admit()
    await desk.admit()
    first.settle(5)
    first.settle(5)
    assert await desk.granted(5) == 1


async def test_more_than_ever_fits_is_another_error() -> None:
    """A request that waiting would not help is 413 and names the bound."""
    desk = Desk(_limits(per_user=Rates(tpm=1000)))
    with pytest.raises(OverCapacity, match=r"may use 1001 tokens.*user: alice.*1000 at once") as caught:
        await desk.admit(1001)
    assert (caught.value.status, caught.value.param, caught.value.retry_after_s) == (413, "user", None)


@pytest.mark.parametrize(
    ("rates", "words"),
    [(Rates(tpm=10), r" \(tokens in a minute\)$"), (Rates(concurrent=1), r" \(requests at one time\)$")],
)
async def test_the_measure_is_named(rates: Rates, words: str) -> None:
    """A caller reads what it ran out of."""
    desk = Desk(_limits(per_key=rates))
    await desk.admit(10)
    with pytest.raises(RateLimited, match=words):
        await desk.admit(10)


async def test_waiting_retry_after_as_it_is_sent() -> None:
    """Whole seconds, rounded up as on the wire, are enough for a sole caller."""
    desk = Desk(_limits(per_key=Rates(7, 2, 900)))
    for _ in range(20):
        refused = desk.limiter.would_allow(CALLER, MODEL, 33)
        if refused is not None:
            (_, sent) = error_headers(refused)[1]
            desk.now_us += int(sent) * 1_000_000
        await desk.admit(33)
    assert desk.now_us > NOW_US


async def test_shadow_refuses_nothing_and_reports() -> None:
    """In shadow mode everybody is let in, and whoever would not have been is reported."""
    desk = Desk(_limits(per_key=Rates(60, 1, 100), providers={"openai": Rates(60, 1)}, shadow=True))
    for tokens in (10, 10, 1000):
        hold = await desk.admit(tokens)
        assert await hold.ask_provider("openai", tokens) is None
        hold.settle(tokens)
    assert [(report.scope, report.measure, report.shadow) for report in desk.reports] == [
        ("key", "requests", True),
        ("provider", "requests", True),
        ("key", "tokens", True),
        ("provider", "requests", True),
    ]


async def test_turned_off() -> None:
    """`enabled = false` limits nothing, not even where accounts have rates, and shows nothing."""
    desk = Desk(RateLimit(enabled=False, per_key=Rates(1, 1)), OwnRates(key=Rates(1, 1)))
    for _ in range(20):
        hold = await desk.admit()
        assert await hold.ask_provider("anthropic", 10) is None
    assert hold.headers() == []
    assert desk.store.statistics().buckets == 0


async def test_headers_show_the_tightest_bucket() -> None:
    """Of all buckets the one with the least left is shown, before and after the end; a refusal shows what refused."""
    desk = Desk(_limits(per_key=Rates(60, 10, 6000), per_user=Rates(600, 5), providers={"openai": Rates(60, 20, 600)}))
    hold = await desk.admit(100)
    assert dict(hold.headers()) == {
        b"x-ratelimit-limit-requests": b"600",
        b"x-ratelimit-remaining-requests": b"4",
        b"x-ratelimit-reset-requests": b"100ms",
        b"x-ratelimit-limit-tokens": b"6000",
        b"x-ratelimit-remaining-tokens": b"5900",
        b"x-ratelimit-reset-tokens": b"1s",
    }
    assert await hold.ask_provider("openai", 100) is None
    assert dict(hold.headers())[b"x-ratelimit-remaining-tokens"] == b"500"
    assert dict(hold.headers())[b"x-ratelimit-reset-tokens"] == b"10s"
    hold.settle(100)
    assert dict(hold.headers())[b"x-ratelimit-remaining-tokens"] == b"500"
    assert await desk.granted(4, 1) == 4
    with pytest.raises(RateLimited) as caught:
        await desk.admit(1)
    assert dict(caught.value.headers) == {
        b"x-ratelimit-limit-requests": b"600",
        b"x-ratelimit-remaining-requests": b"0",
        b"x-ratelimit-reset-requests": b"500ms",
    }


async def test_would_allow_asks_the_provider_too_and_takes_nothing() -> None:
    """It says what admitting and then asking the model's provider would, any number of times."""
    desk = Desk(_limits(per_key=Rates(60, 5), providers={"openai": Rates(60, 1, 100)}))
    for _ in range(5):
        assert desk.limiter.would_allow(CALLER, MODEL, 50) is None
    assert isinstance(desk.limiter.would_allow(CALLER, MODEL, 101), OverCapacity)
    await (await desk.admit()).ask_provider("openai", 10)
    refused = desk.limiter.would_allow(CALLER, MODEL, 10)
    assert isinstance(refused, RateLimited)
    assert refused.param == "openai"
    assert desk.reports == []


class Leasing:
    """A store that has shares only after so many refills."""

    def __init__(self, refills: int) -> None:
        self._missing = refills

    def take(self, demands: Demands, tokens: int, now_us: int) -> Levels | Denied | Never | Short:
        """See Store."""
        return Short(demands) if self._missing else tuple(now_us for _ in demands)

    def would_allow(self, demands: Demands, tokens: int, now_us: int) -> Denied | Never | Short | None:
        """See Store."""
        return Short(demands)

    def give_back(self, demands: Demands, levels: Levels, tokens: int, now_us: int, *, requests: bool = False) -> None:
        """See Store."""

    async def refill(self, short: Short) -> None:
        """See Store."""
        self._missing -= 1

    def statistics(self) -> StoreStatistics:
        """See Store."""
        return StoreStatistics("leasing", 0, 0, 0)


async def test_a_store_without_a_share_is_waited_for_once() -> None:
    """After one refill the request is let in; a store that has none then is 503, which is not the caller's fault."""
    settings = _limits(per_key=Rates(60))
    limiter = Limiter(settings, Leasing(1), lambda caller: OwnRates(), lambda: NOW_US)
    assert (await limiter.admit(CALLER, MODEL, 1)).headers() != []
    limiter = Limiter(settings, Leasing(2), lambda caller: OwnRates(), lambda: NOW_US)
    with pytest.raises(LimitsUnavailable) as caught:
        await limiter.admit(CALLER, MODEL, 1)
    assert caught.value.status == 503
