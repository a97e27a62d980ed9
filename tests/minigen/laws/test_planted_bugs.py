"""Every planted bug of `mutants` is killed; and every law that is not redundant is needed for it.

kills.txt says which law kills which bug. Where a sampler claims all that ours do, several laws see most bugs; those
that claim less (`mutants.MODEST`) show what each law is for.
"""

import pytest

from minigen.laws import LAWS
from tests.minigen.laws import mutants

TABLE = mutants.read_table()
ALONE = {law.name: [bug for bug, laws in TABLE.items() if laws == [law.name]] for law in LAWS}
REDUNDANT = {  # no bug is seen by these alone; why they are there
    "L0": "what breaks the protocol or is not finite breaks other laws too: it is first, and says so",
    "L4": "L6 sees the same: L4 says which levels the model is told wrongly, L6 that a state is wrong",
    "L6": "L4 sees the same, but for a state that is scaled as a whole, which L15 sees",
    "L7": "L8 has it for data of any width: this is its plainest case",
    "L10": "L8 has it by moments: this is the same of paths",
}
TOGETHER = ("L4", "L6")  # not redundant as a pair


@pytest.mark.parametrize("name", mutants.PLANTED)
def test_every_planted_bug_is_killed_by_its_law(name):
    (verdict,) = mutants.verdicts(name, [mutants.PLANTED[name].law])
    assert verdict.failed and verdict.detail, verdict


def test_the_table_is_of_these_bugs_and_every_one_is_killed_by_the_law_that_is_named():
    assert list(TABLE) == list(mutants.PLANTED) and len(TABLE) >= 60
    assert not [name for name, bug in mutants.PLANTED.items() if bug.law not in TABLE[name]]


def test_every_law_is_redundant_or_alone_in_seeing_a_bug():
    assert {law for law, bugs in ALONE.items() if not bugs} == set(REDUNDANT)
    assert [bug for bug, laws in TABLE.items() if set(laws) == set(TOGETHER)]


@pytest.mark.parametrize("law", [law.name for law in LAWS if law.name not in REDUNDANT] + [TOGETHER], ids=str)
def test_without_this_law_a_bug_lives(law):
    gone = {law} if isinstance(law, str) else set(law)
    bugs = [bug for bug, laws in TABLE.items() if set(laws) <= gone]
    bug = next((bug for bug in bugs if bug in mutants.MODEST), bugs[0])
    others = [other.name for other in LAWS if other.name not in gone]
    verdicts = mutants.verdicts(bug, others)
    assert not [v for v in verdicts if v.failed] and [v for v in verdicts if v.status == "skip"], bug
    assert set(mutants.kills(bug, sorted(gone))) == gone


def test_only_one_law_sees_a_step_ratio_turned_round():
    """No test of the order can: the error telescopes."""
    assert TABLE["2m: ratio turned round"] == mutants.kills("2m: ratio turned round") == ["L14"]


@pytest.mark.slow
@pytest.mark.parametrize("name", mutants.PLANTED)
def test_the_table_is_what_all_laws_say(name):
    assert mutants.kills(name) == TABLE[name]
