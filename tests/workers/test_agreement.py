"""Taking a configuration together, as a table of what was said and what follows."""

import pytest

from securellm.config import Config
from securellm.workers.agreement import COMMIT_S, PREPARE_S, Agreement, Commit, Done, Refuse
from securellm.workers.link import Message, Word

PIDS = {1: 11, 2: 12}
YES = Message(Word.PREPARED)
NO = Message(Word.PREPARED, "no room")
TAKEN = Message(Word.COMMITTED)


@pytest.fixture
def agreement() -> Agreement:
    """One that has begun at 100 s."""
    return Agreement(Config(), PIDS, 100.0)


def test_all_prepare_then_all_commit(agreement: Agreement) -> None:
    """Nothing is decided before the last has prepared, and nothing is done before the last has taken it."""
    agreement.hear(2, YES)
    assert agreement.decide(PIDS, 101.0) is None
    agreement.hear(1, YES)
    assert agreement.decide(PIDS, 101.0) == Commit()
    agreement.hear(1, TAKEN)
    assert agreement.decide(PIDS, 101.0) is None
    agreement.hear(2, TAKEN)
    assert agreement.decide(PIDS, 101.0) == Done(())


def test_one_that_cannot_ends_it(agreement: Agreement) -> None:
    """Its reason is the answer, whatever the others say, and before they say it."""
    agreement.hear(2, NO)
    assert agreement.decide(PIDS, 101.0) == Refuse("no room")
    agreement.hear(1, YES)
    assert agreement.decide(PIDS, 101.0) == Refuse("no room")


def test_one_that_is_replaced_before_the_decision_ends_it(agreement: Agreement) -> None:
    """Its successor began with the old configuration, so that taking the new one would mix them."""
    agreement.hear(1, YES)
    agreement.hear(2, YES)
    assert agreement.decide({1: 11, 2: 13}, 101.0) == Refuse("worker 2 ended meanwhile")


def test_one_that_is_replaced_after_the_decision_has_it(agreement: Agreement) -> None:
    """Its successor begins with the new configuration: it is not waited for."""
    agreement.hear(1, YES)
    agreement.hear(2, YES)
    assert agreement.decide(PIDS, 101.0) == Commit()
    agreement.hear(1, TAKEN)
    assert agreement.decide({1: 11, 2: None}, 101.0) == Done(())


def test_time_ends_both_halves(agreement: Agreement) -> None:
    """Who does not prepare in time is a refusal, who does not commit in time is to be replaced."""
    agreement.hear(1, YES)
    assert agreement.decide(PIDS, 99.0 + PREPARE_S) is None
    refusal = agreement.decide(PIDS, 100.0 + PREPARE_S)
    assert refusal == Refuse("worker 2 took longer than 30 s")
    agreement.hear(2, YES)
    assert agreement.decide(PIDS, 110.0) == Commit()
    assert agreement.decide(PIDS, 109.0 + COMMIT_S) is None
    assert agreement.decide(PIDS, 110.0 + COMMIT_S) == Done((1, 2))
