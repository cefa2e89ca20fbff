"""What every store does, on a SQLite file and on a real PostgreSQL server."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from securellm.accounts.bounds import Budget
from securellm.accounts.keys import MintedKey, digest_key
from securellm.accounts.records import KeyChanges, KeyTable, StoredModel, TeamChanges, UserChanges
from securellm.accounts.store import Store, ensure_first_key
from securellm.chat import EVERYTHING, Grants
from securellm.config.tree import Config, Rates
from securellm.errors import BadRequest, SecureLLMError

GRANTS = Grants(models=("openai/*", "demo/echo"), providers=(), endpoints=("messages",), networks=("10.0.0.0/8",))


@pytest.fixture
def store(config: Config) -> Iterator[Store]:
    store = Store(config)
    yield store
    store.close()


def _create(store: Store, name: str = "n", **settings: object) -> MintedKey:
    minted = store.create_key(name, **settings)
    assert minted is not None
    return minted


def _table(store: Store) -> KeyTable:
    table = store.read_keys()
    assert table is not None
    return table


def _refused(act: Callable[[], object]) -> tuple[str, str | None]:
    """Kind and field of the refusal."""
    with pytest.raises(SecureLLMError) as caught:
        act()
    assert caught.value.message
    return type(caught.value).__name__, caught.value.param


def test_a_key_round_trip(config: Config, store: Store) -> None:
    """A made key is found with all that was said of it, kept as a digest, by another opening of the store as well."""
    store.create_team("core")
    store.create_user("alice", "Alice", team_id="core")
    rates = Rates(rpm=60, burst=5, tpm=0, concurrent=2)
    owner = {"user_id": "alice", "team_id": "core"}
    minted = _create(store, "ci", role="operator", expires_at_s=253_402_300_799, grants=GRANTS, rates=rates, **owner)
    record = store.find_key(minted.id)
    assert (record.name, record.role, record.expires_at_s) == ("ci", "operator", 253_402_300_799)
    assert (record.user_id, record.team_id, record.grants, record.rates) == ("alice", "core", GRANTS, rates)
    table = _table(store)
    assert record.digest == digest_key(table.pepper, minted.text)
    plain = store.find_key(_create(store, "").id)
    assert (plain.grants, plain.rates, plain.user_id, plain.expires_at_s) == (EVERYTHING, None, None, None)
    other = Store(config)
    assert _table(other).records == _table(store).records
    assert [key.id for key in other.list_keys(user_id="alice")] == [minted.id]
    assert other.list_keys(team_id="none") == []
    other.close()


def test_every_change_moves_the_generation(config: Config, store: Store) -> None:
    """Whoever knows the generation reads nothing until something is changed, whatever it is and by whomever."""
    other = Store(config)
    key = _create(store).id
    doomed = _create(store).id
    changes: list[Callable[[], object]] = [
        lambda: other.create_team("t"),
        lambda: other.create_user("u", team_id="t"),
        lambda: other.update_key(key, KeyChanges(role="auditor")),
        lambda: other.rotate_key(key, overlap_s=5),
        lambda: other.update_user("u", UserChanges(disabled=True)),
        lambda: other.update_team("t", TeamChanges(rates=Rates(rpm=1))),
        lambda: other.set_budget("user", "u", limit_tokens=5),
        lambda: other.remove_budget("user", "u"),
        lambda: other.revoke_key(doomed),
        lambda: other.delete_key(doomed),
        lambda: other.delete_user("u"),
        lambda: other.delete_team("t"),
    ]
    for change in changes:
        known = _table(store).generation
        assert store.read_keys(known) is None
        change()
        changed = store.read_keys(known)
        assert changed is not None
        assert changed.generation == known + 1
    assert not other.revoke_key(doomed)
    other.note_event("content_erased", "x")
    assert store.read_keys(_table(store).generation) is None
    other.close()


def test_changing_a_key(store: Store) -> None:
    """What is named changes, None takes away, and the rest stays."""
    store.create_user("alice")
    key = _create(store, "ci", grants=GRANTS, rates=Rates(rpm=5), user_id="alice").id
    before = store.find_key(key)
    after = store.update_key(key, KeyChanges(name="other", grants=EVERYTHING, user_id=None))
    assert after == store.find_key(key)
    assert (after.name, after.grants, after.user_id) == ("other", EVERYTHING, None)
    assert (after.rates, after.role, after.digest) == (before.rates, before.role, before.digest)
    assert store.update_key(key, KeyChanges(rates=None)).rates is None


def test_rotating_a_key(store: Store) -> None:
    """The id stays; the digest before is kept for the overlap, and not at all without one."""
    first = _create(store)
    second = store.rotate_key(first.id, overlap_s=3600)
    pepper = _table(store).pepper
    record = store.find_key(first.id)
    assert (second.id, record.digest) == (first.id, digest_key(pepper, second.text))
    assert record.previous_digest == digest_key(pepper, first.text)
    assert record.previous_until_s is not None
    assert 3590 < record.previous_until_s - record.created_at_s < 3700
    third = store.rotate_key(first.id)
    record = store.find_key(first.id)
    assert (record.digest, record.previous_digest, record.previous_until_s) == (
        digest_key(pepper, third.text), None, None,
    )  # fmt: skip
    store.revoke_key(first.id)
    assert _refused(lambda: store.rotate_key(first.id)) == ("BadRequest", "id")


def test_users_and_teams(store: Store) -> None:
    """They are made, listed, changed, disabled and enabled; what is not there is not found."""
    team = store.create_team("core", "Core team", rates=Rates(tpm=9))
    alice = store.create_user("alice@example.org", "Alice", team_id="core", rates=Rates(concurrent=3))
    assert (store.list_teams(), store.list_users()) == ([team], [alice])
    assert store.list_users(team_id="other") == []
    off = store.update_user(alice.id, UserChanges(disabled=True))
    assert off.disabled_at_s is not None
    assert store.update_user(alice.id, UserChanges(disabled=True)) == off
    assert store.update_user(alice.id, UserChanges(disabled=False)) == alice
    assert store.update_user(alice.id, UserChanges(team_id=None)).team_id is None
    assert store.update_team("core", TeamChanges(name="x", rates=None)).rates is None
    assert store.find_team("core").name == "x"
    for act in (
        lambda: store.find_user("x"),
        lambda: store.find_team("x"),
        lambda: store.find_key("aaaaaaaa"),
        lambda: store.update_user("x", UserChanges(name="y")),
        lambda: store.update_key("aaaaaaaa' OR '1'='1", KeyChanges(name="y")),
        lambda: store.delete_team("x"),
    ):
        assert _refused(act) == ("NotFound", "id")


def test_nothing_is_deleted_that_is_in_use(store: Store) -> None:
    """A team with users, a user with active keys and an active key stay; budgets go with what they were for."""
    store.create_team("core")
    store.create_user("alice", team_id="core")
    key = _create(store, user_id="alice", team_id="core").id
    for kind, subject in (("key", key), ("user", "alice"), ("team", "core")):
        store.set_budget(kind, subject, limit_tokens=1)
    assert _refused(lambda: store.delete_key(key)) == ("BadRequest", "id")
    assert _refused(lambda: store.delete_user("alice")) == ("BadRequest", "id")
    assert _refused(lambda: store.delete_team("core")) == ("BadRequest", "id")
    store.revoke_key(key)
    assert _refused(lambda: store.delete_team("core")) == ("BadRequest", "id")
    store.delete_key(key)
    store.delete_user("alice")
    store.delete_team("core")
    table = _table(store)
    assert (table.records, table.users, table.teams, table.budgets) == ((), (), (), ())


def test_budgets(store: Store) -> None:
    """One for each subject and window; setting it again changes its limits and not its name."""
    store.create_user("alice")
    month = store.set_budget("user", "alice", limit_nusd=2**61, limit_tokens=5)
    assert month == Budget("user:alice:month", "user", "alice", 2**61, 5, "month", 30 * 86_400)
    day = store.set_budget("user", "alice", limit_tokens=0, window="day")
    store.set_budget("key", "anonymous", limit_tokens=1)
    rolling = store.set_budget("key", "config01", limit_tokens=1, window="rolling", rolling_s=3600)
    changed = store.set_budget("user", "alice", limit_nusd=7)
    assert (changed.id, changed.limit_tokens) == (month.id, None)
    assert store.list_budgets(kind="user") == [day, changed]
    assert store.list_budgets(subject="config01") == [rolling]
    assert store.remove_budget("user", "alice", "day") == 1
    assert store.remove_budget("user", "alice") == 1
    assert _refused(lambda: store.remove_budget("user", "alice"))[0] == "NotFound"


@pytest.mark.parametrize(
    ("param", "act"),
    [
        ("id", lambda store: store.create_user("no spaces")),
        ("id", lambda store: store.create_user("a" * 65)),
        ("id", lambda store: store.create_user("")),
        ("id", lambda store: store.create_team("-x")),
        ("id", lambda store: [store.create_user("twice"), store.create_user("twice")]),
        ("id", lambda store: [store.create_team("twice"), store.create_team("twice")]),
        ("name", lambda store: store.create_key("a\nb")),
        ("name", lambda store: store.create_user("a", "x" * 129)),
        ("role", lambda store: store.create_key(role="king")),
        ("user_id", lambda store: store.create_key(user_id="nobody")),
        ("team_id", lambda store: store.create_key(team_id="nobody")),
        ("team_id", lambda store: store.create_user("a", team_id="nobody")),
        ("expires_at_s", lambda store: store.create_key(expires_at_s=2**40)),
        ("expires_at_s", lambda store: store.create_key(expires_at_s=-1)),
        ("grants.models", lambda store: store.create_key(grants=Grants(models=("gpt",)))),
        ("grants.models", lambda store: store.create_key(grants=Grants(models=("open*/gpt",)))),
        ("grants.models", lambda store: store.create_key(grants=Grants(models=("",)))),
        ("grants.providers", lambda store: store.create_key(grants=Grants(providers=("Open AI",)))),
        ("grants.endpoints", lambda store: store.create_key(grants=Grants(endpoints=("chat",)))),
        ("grants.networks", lambda store: store.create_key(grants=Grants(networks=("10.0.0.1/8",)))),
        ("grants.networks", lambda store: store.create_key(grants=Grants(networks=("1.2.3.4",) * 1001))),
        ("rates.rpm", lambda store: store.create_key(rates=Rates(rpm=-1))),
        ("rates.burst", lambda store: store.create_key(rates=Rates(rpm=1, burst=0))),
        ("rates.burst", lambda store: store.create_team("t", rates=Rates(burst=5))),
        ("kind", lambda store: store.set_budget("house", "x", limit_tokens=1)),
        ("window", lambda store: store.set_budget("key", "anonymous", limit_tokens=1, window="year")),
        ("subject", lambda store: store.set_budget("key", "a b", limit_tokens=1)),
        ("limit_nusd", lambda store: store.set_budget("key", "anonymous")),
        ("limit_tokens", lambda store: store.set_budget("key", "anonymous", limit_tokens=-1)),
        ("rolling_s", lambda store: store.set_budget("key", "anonymous", limit_tokens=1, rolling_s=1)),
        ("overlap_s", lambda store: store.rotate_key("aaaaaaaa", overlap_s=-1)),
    ],
)
def test_what_is_wrong_is_named(store: Store, param: str, act: Callable[[Store], object]) -> None:
    """A value that cannot be kept is refused by the name of its field, with what to write instead; nothing is kept."""
    with pytest.raises(BadRequest) as caught:
        act(store)
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param}: ")
    table = _table(store)
    assert (table.records, table.budgets) == ((), ())
    assert {owner.id for owner in (*table.users, *table.teams)} <= {"twice"}


def test_a_change_of_nothing_is_refused(store: Store) -> None:
    """Nothing to change is a mistake that lists what could be."""
    key = _create(store).id
    with pytest.raises(BadRequest, match="expected some of name, role, expires_at_s"):
        store.update_key(key, KeyChanges())
    assert _refused(lambda: store.set_budget("user", "nobody", limit_tokens=1)) == ("NotFound", "subject")


def test_what_was_done_is_noted(store: Store) -> None:
    """Each change leaves one event, in order: what was done to whom, by whom, and what changed, without any secret."""
    store.create_team("core", actor="cli:root")
    key = _create(store, "ci", role="operator", team_id="core", actor="cli:root")
    store.update_key(key.id, KeyChanges(role="admin", expires_at_s=None), actor="aaaaaaaa")
    store.update_team("core", TeamChanges(disabled=True))
    store.update_team("core", TeamChanges(disabled=False))
    rotated = store.rotate_key(key.id, overlap_s=60)
    store.set_budget("team", "core", limit_nusd=5)
    store.remove_budget("team", "core")
    store.revoke_key(key.id)
    events = store.read_events()
    assert [event.action for event in events] == [
        "team_created", "key_created", "key_updated", "team_disabled", "team_enabled", "key_rotated", "budget_set",
        "budget_removed", "key_revoked",
    ]  # fmt: skip
    assert [event.actor for event in events[:4]] == ["cli:root", "cli:root", "aaaaaaaa", "local"]
    assert {event.subject for event in events} == {"core", key.id, "team:core:month", "team:core:*"}
    assert json.loads(events[2].changed) == {"role": "admin", "expires_at_s": None}
    told = "".join(event.changed for event in events)
    assert key.text[13:] not in told
    assert rotated.text[13:] not in told


def test_an_event_is_one_process_to_tell(config: Config, store: Store) -> None:
    """Events that somebody has taken are not given to another; forgotten ones are gone, new ones have new ids."""
    other = Store(config)
    _create(store)
    taken = store.read_events()
    assert len(taken) == 1
    assert other.read_events() == []
    _create(store)
    (second,) = other.read_events()
    assert second.id > taken[0].id
    store.forget_events([taken[0].id])
    other.give_back_events([second.id])
    assert store.read_events() == [second]
    assert other.read_events() == []
    with other.transaction(write=True) as connection:
        connection.exec_driver_sql("UPDATE events SET taken_until_s = 1")  # whoever took it has gone
    assert other.read_events() == [second]
    other.close()


def test_writers_do_not_lose_each_other(config: Config, another_machine: Callable[[str], Config]) -> None:
    """Several stores at one place, opened together on an empty one, each keep all of their keys and events."""

    def write(number: int) -> str:
        store = Store(another_machine(f"m{number % 3}"))
        try:
            return _create(store, f"key {number}").id
        finally:
            store.close()

    with ThreadPoolExecutor(6) as pool:
        ids = set(pool.map(write, range(18)))
    store = Store(config)
    table = _table(store)
    assert {record.id for record in table.records} == ids
    assert (len(ids), table.generation) == (18, 18)
    assert len(store.read_events()) == 18
    store.close()


def test_the_first_key_is_minted_once(config: Config) -> None:
    """Starts that race mint one key between them; a later start mints none, nor after it was revoked."""
    with ThreadPoolExecutor(6) as pool:
        minted = [text for text in pool.map(ensure_first_key, [config] * 12) if text]
    assert len(minted) == 1
    store = Store(config)
    (record,) = _table(store).records
    assert record.role == "admin"
    store.revoke_key(record.id)
    store.close()
    assert ensure_first_key(config) is None


def test_discovered_models_are_replaced(store: Store) -> None:
    """What a provider listed last is what is kept of it; other providers keep theirs."""
    old, new = (StoredModel("p", name, 5, None, 0, None) for name in ("old", "new"))
    other = StoredModel("q", "x/y", None, 2**40, 9, "X")
    store.save_models("p", [old])
    store.save_models("q", [other])
    store.save_models("p", [new])
    assert store.read_models() == [new, other]
    store.save_models("q", [])
    assert store.read_models() == [new]


def test_a_failure_changes_nothing(store: Store) -> None:
    """What raises in a transaction leaves neither rows nor a generation."""
    _create(store)
    before = _table(store)

    def fail() -> None:
        with store.transaction(write=True) as connection:
            connection.exec_driver_sql("DELETE FROM keys")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert _table(store) == before
