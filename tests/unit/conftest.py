"""What unit tests share."""

import pytest

from fastgw.upstream import pool as pooling
from tests.support.lending import Dialer


@pytest.fixture
def dialer(monkeypatch: pytest.MonkeyPatch) -> Dialer:
    """In place of connecting: each opening of a pool is done when the test says so."""
    made = Dialer()
    monkeypatch.setattr(pooling, "connect", made.connect)
    return made
