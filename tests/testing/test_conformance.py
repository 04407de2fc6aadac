"""Every instrument in the registry keeps every promise, on subjects of every kind."""

import pytest

import geartrain as gt
from geartrain import testing

ON_ONE = sorted(set(testing.CHECKS) - {"answers"})


@pytest.mark.parametrize("check", ON_ONE)
@pytest.mark.parametrize("name", gt.instruments.names())
def test_every_instrument_keeps(name: str, check: str) -> None:
    testing.check_instrument(gt.instruments.get(name), checks=[check])


@pytest.mark.parametrize("subject", testing.SUBJECTS)
@pytest.mark.parametrize("name", gt.instruments.names())
def test_every_instrument_answers_on(name: str, subject: str) -> None:
    testing.check_instrument(gt.instruments.get(name), checks=["answers"], subject=subject)
