"""Each protection that is taken out is noticed by a test; see tests/mutants.py."""

from __future__ import annotations

import pytest

from tests import mutants
from tests.mutants import MUTANTS, ROOT


def test_each_mutant_fits_the_code_and_has_a_name_of_its_own():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    for mutant in MUTANTS:
        assert (ROOT / mutant.file).read_text().count(mutant.old) == 1, mutant.name
        assert (ROOT / "tests" / "unit" / f"test_{mutant.tests}.py").exists(), mutant.name


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the checkout, whose tests pass."""
    return mutants.copy_tree(tmp_path_factory.mktemp("mutants"))


@pytest.mark.nightly
@pytest.mark.parametrize("tests", sorted({mutant.tests for mutant in MUTANTS}))
def test_without_a_mutant_the_tests_pass(tree, tests):
    done = mutants.run_tests(tree, tests)
    assert done.returncode == 0, done.stdout


@pytest.mark.nightly
@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_test_notices(tree, mutant):
    assert mutants.noticed_by(mutant, tree), "no test notices: write one"
