"""What unit tests share."""

from collections.abc import Iterator

import pytest

from fastgw import testing
from fastgw.config.settings.gateway import Log
from fastgw.filters.policies.request_id import RequestId
from fastgw.operator_log import call_process, configure
from fastgw.sync.known_addresses import KnownAddresses
from fastgw.upstream.connections import pool as pooling
from fastgw.upstream.connections.http1_connection import UpstreamConnection
from fastgw.upstream.targets import dns
from tests.support.judge import REFUSED, RequestJudge
from tests.support.lending import Dialer


@pytest.fixture(autouse=True)
def tells_by_default() -> Iterator[None]:
    """A test that begins a supervisor or takes a configuration here leaves its name and its way of telling behind."""
    yield
    call_process("fastgw")
    configure(Log())


@pytest.fixture(autouse=True)
def no_addresses_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of hosts are looked up in each test, whichever ones ran before it."""
    monkeypatch.setattr(dns, "node_addresses", KnownAddresses())


@pytest.fixture(autouse=True)
def no_request_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configurations have the filters that their test says, and no id that is another one each time; of what there is
    by default `test_request_ids.py` and `protocol/test_request_ids.py` speak."""
    monkeypatch.setattr(RequestId, "by_default", False)


@pytest.fixture(autouse=True)
def h11_reads_what_goes_upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In the planes of `tests.support.memory`, and in those of `fastgw.testing`, which knows no h11."""
    judges: dict[int, tuple[object, RequestJudge]] = {}
    write = testing._Wire.write

    def judged(wire: testing._Wire, chunk: bytes | memoryview) -> None:
        if isinstance(wire.protocol, UpstreamConnection) and not wire._closing:
            judges.setdefault(id(wire), (wire, RequestJudge()))[1].read(chunk)
        write(wire, chunk)

    monkeypatch.setattr(testing._Wire, "write", judged)
    REFUSED.clear()
    yield
    assert REFUSED == []


@pytest.fixture
def dialer(monkeypatch: pytest.MonkeyPatch) -> Dialer:
    """In place of connecting: each opening of a pool is done when the test says so."""
    made = Dialer()
    monkeypatch.setattr(pooling, "connect", made.connect)
    return made
