"""What requests look up: callers made ready, whose keys are off, and what bounds them."""

from securellm.accounts.bounds import NO_OWN_RATES, Budget, OwnRates
from securellm.accounts.keys import KeyRecord
from securellm.accounts.records import KeyTable, TeamRecord, UserRecord
from securellm.accounts.view import View
from securellm.chat import Caller, Grants, KeyId
from securellm.config.tree import Allowance, Budgets, Rates

GRANTS = Grants(models=("p/*",))


def _key(name: str, **fields: object) -> KeyRecord:
    return KeyRecord(KeyId(name), b"digest", name, "user", 0, **fields)


def _view(*keys: KeyRecord, users: object = (), teams: object = (), budgets: object = (), **settings: object) -> View:
    table = KeyTable(1, keys, b"pepper", tuple(users), tuple(teams), tuple(budgets))
    return View(table, Budgets(**settings))


def _budget(kind: str, subject: str, window: str = "month") -> Budget:
    return Budget(f"{kind}:{subject}:{window}", kind, subject, 5, None, window, 60)


def test_a_caller_is_made_ready() -> None:
    """With its user, its team (its own, else the user's) and its grants."""
    view = _view(
        _key("plain"),
        _key("mine", user_id="alice", grants=GRANTS),
        _key("lent", user_id="alice", team_id="other"),
        users=[UserRecord("alice", "Alice", 0, team_id="core")],
        teams=[TeamRecord("core", "", 0), TeamRecord("other", "", 0)],
    )
    callers = {key_id: entry.caller for key_id, entry in view.entries.items()}
    assert callers["plain"] == Caller(KeyId("plain"), None, "plain")
    assert callers["mine"] == Caller(KeyId("mine"), "alice", "mine", "user", "core", GRANTS)
    assert callers["lent"].team_id == "other"


def test_whose_keys_are_off() -> None:
    """Revoked for good; off while its user, its team or its user's team is disabled or not there."""
    view = _view(
        _key("good", user_id="alice"),
        _key("revoked", revoked_at_s=1),
        _key("of-disabled", user_id="bob"),
        _key("of-nobody", user_id="nobody"),
        _key("of-disabled-team", team_id="off"),
        _key("of-no-team", team_id="none"),
        _key("lent", user_id="carol", team_id="core"),
        users=[
            UserRecord("alice", "", 0, team_id="core"),
            UserRecord("bob", "", 0, disabled_at_s=5),
            UserRecord("carol", "", 0, team_id="off"),
        ],
        teams=[TeamRecord("core", "", 0), TeamRecord("off", "", 0, disabled_at_s=5)],
    )
    assert set(view.entries) == {"good"}
    assert view.revoked == {"revoked"}


def test_own_rates() -> None:
    """What the store says of key, user and team, each by itself; nothing is nothing."""
    view = _view(
        _key("key", user_id="alice", rates=Rates(rpm=1)),
        _key("plain"),
        users=[UserRecord("alice", "", 0, team_id="core")],
        teams=[TeamRecord("core", "", 0, rates=Rates(tpm=0))],
    )
    assert view.rates(view.entries[KeyId("key")].caller) == OwnRates(Rates(rpm=1), None, Rates(tpm=0))
    assert view.rates(view.entries[KeyId("plain")].caller) is NO_OWN_RATES
    assert view.rates(Caller(None, None)) is NO_OWN_RATES


def test_budgets() -> None:
    """A subject's own, all of them, else what the configuration gives everybody; callers without a key are one."""
    own = [_budget("user", "alice"), _budget("user", "alice", "day"), _budget("team", "unused")]
    view = _view(
        _key("key", user_id="alice"),
        users=[UserRecord("alice", "", 0, team_id="core")],
        teams=[TeamRecord("core", "", 0)],
        budgets=own,
        per_key=Allowance(usd=1.5),
        per_user=Allowance(usd=9.0),
        per_team=Allowance(tokens=7, window="rolling"),
        rolling_s=120.0,
    )
    caller = view.entries[KeyId("key")].caller
    found = view.budgets(caller)
    assert found == (
        Budget("key:key:month", "key", "key", 1_500_000_000, None, "month", 120),
        *own[:2],
        Budget("team:core:rolling", "team", "core", None, 7, "rolling", 120),
    )
    assert view.budgets(caller) is found
    assert [budget.id for budget in view.budgets(Caller(None, None))] == ["key:anonymous:month"]
    assert [budget.id for budget in view.budgets(Caller(KeyId("config01"), None))] == ["key:config01:month"]
    assert View(None, Budgets()).budgets(caller) == ()


def test_budgets_of_a_caller_who_was_told_apart_before_a_change() -> None:
    """A request on its way in since before its key changed teams leaves those after it the new team's budget."""
    view = _view(_key("key", team_id="new"), teams=[TeamRecord("new", "", 0)], per_team=Allowance(usd=1.0))
    before, now = Caller(KeyId("key"), None, team_id="old"), view.entries[KeyId("key")].caller
    assert [budget.subject for budget in view.budgets(before)] == ["old"]
    assert [budget.subject for budget in view.budgets(now)] == ["new"]


def test_when_keys_end() -> None:
    """A key is active until its second; the next end is the nearest that is to come."""
    view = _view(_key("a", expires_at_s=10), _key("b", expires_at_s=20), _key("c"))
    assert view.active(9.9) == {"a", "b", "c"}
    assert view.active(10) == {"b", "c"}
    assert (view.next_end_s(5), view.next_end_s(10), view.next_end_s(20)) == (10, 20, float("inf"))
