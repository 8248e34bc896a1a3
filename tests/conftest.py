"""What the tests share: a gateway with lanes that lives as long as the run, and one lane of it per test."""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from functools import cache
from typing import Any

import httpx
import hypothesis
import pytest
import typer.testing

from tests.support import forked
from tests.support.file_by_file import FileByFile
from tests.support.lanes import PLAIN, Kind, Lane, Lanes, running

# How long an example takes says how busy the machine is, not whether it is right.
_any_speed = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("fastgw", _any_speed)
hypothesis.settings.register_profile(
    "landing", _any_speed, derandomize=True
)  # `make test`: the same examples each time
hypothesis.settings.load_profile("fastgw")

# The commands are made from their signatures, for each one that runs: that takes twice as long as most of them do.
typer.testing._get_command = cache(typer.testing._get_command)

# A client of httpx reads all public authorities, even if it speaks without TLS: 25 ms of processor time, for each poll.
_create_ssl_context = httpx._transports.default.create_ssl_context
_public_authorities = cache(_create_ssl_context)


def _shared_ssl_context(verify: Any = True, cert: Any = None, trust_env: bool = True) -> Any:
    is_usual = verify is True and cert is None
    return _public_authorities() if is_usual and trust_env else _create_ssl_context(verify, cert, trust_env)


httpx._transports.default.create_ssl_context = _shared_ssl_context

# Where Python is told to keep nothing that it has compiled, each start of the command would compile all modules anew,
# and each process that runs tests all of their files.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


# Where gateways register that tests start: not among those of whoever runs the tests. It is removed at the end.
_RUNTIME = tempfile.TemporaryDirectory(prefix="fastgw-tests-")
os.environ["XDG_RUNTIME_DIR"] = _RUNTIME.name
for _name in ("RUNTIME_DIRECTORY", "FASTGW_ADMIN_TOKEN", "JOURNAL_STREAM", "KUBERNETES_SERVICE_HOST"):
    os.environ.pop(_name, None)
forked.remember_environment()


# Seconds in which no test of this process begins or ends. `timeout` in pyproject.toml fails a test before that, but not
# every one: it raises once, and nothing that it raises gets past uvloop. Here the stacks are told and the process ends,
# and who gave it the test names that; what waits between two tests or behind the last one is told as well.
HANGS_AFTER_S = 720.0
_hangs_after = HANGS_AFTER_S
_waits_again_at = 0.0
_stderr = 2


def pytest_configure(config: pytest.Config) -> None:
    global _hangs_after, _stderr
    if not hasattr(config, "workerinput"):
        _hangs_after += 60.0  # who gives tests to others has the time to tell which of them ended
    _stderr = os.dup(2)  # while a test runs, 2 is what is captured of it
    gc.disable()  # until all tests are collected: they stay, and walking them anew took half of the time


def pytest_runtest_logstart() -> None:
    """Begin to wait again, at most once a second: each time ends a thread and starts another one."""
    # PERF: 0.3 ms of processor time a test less than each time (CPython 3.11, pytest -n 0 of 10,000 empty tests)
    global _waits_again_at
    now = time.monotonic()
    if now >= _waits_again_at:
        _waits_again_at = now + 1.0
        faulthandler.dump_traceback_later(_hangs_after, file=_stderr, exit=True)


pytest_runtest_logfinish = pytest_runtest_logreport = pytest_runtest_logstart


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`make test`: what the process of a test draws is the same each time, as the examples are."""
    if item.config.getoption("--hypothesis-profile") == "landing":
        random.seed(item.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """A process that runs tests for another takes files, and tells what came of each test once, not five times.

    Before and after a test only what went wrong is told. Lists of durations and files for JUnit take all of it.
    """
    # PERF: 0.8 ms of processor time a test for telling instead of 1.7 (CPython 3.11, pytest -n 1 tests/unit/http/http1)
    options = session.config.option
    if not hasattr(session.config, "workerinput"):
        return
    (worker,) = (each for each in session.config.pluginmanager.get_plugins() if hasattr(each, "sendevent"))
    session.config.pluginmanager.register(FileByFile(worker, LONG))
    if options.durations is not None or options.xmlpath is not None:
        return
    send = worker.sendevent

    def send_outcomes(name: str, **told: Any) -> None:
        if name in ("logstart", "logfinish"):
            return
        report = told.get("data", {})
        if report.get("outcome") != "passed" or report.get("when") == "call":
            send(name, **told)

    worker.sendevent = send_outcomes


# Files that take the longest, in this order. A file is one process's: the last to begin would keep all others waiting.
LONG = (
    "test_sanitized.py",
    "test_upgrade.py",
    "test_packaging.py",
    "test_dashboard.py",
    "test_supervision.py",
    "test_memory.py",
    "test_systemd.py",
    "test_websocket_filter.py",
    "test_docs.py",
    "test_subrequests.py",
    "test_redacted_problems.py",
    "test_cells_processes.py",
    "test_memory_of_reloads.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [each for each in items if not (each.get_closest_marker("http1") and "http2" in each.name)]


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """What is imported by the time that tests are there stays to the end: no collection of a test walks it."""
    if not gc.isenabled() and session.items:
        gc.freeze()  # a collection before it would take 0.7 s, and free 160,000 objects of millions
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Generator[None, None, None]:
    """Of several processes pytest knows how many files they have: no test at all is an error here as well."""
    yield
    told = session.config.pluginmanager.get_plugin("terminalreporter")
    is_distributed = getattr(session.config.option, "dist", "no") != "no"
    if told is None or not is_distributed or exitstatus != pytest.ExitCode.OK:
        return
    if not any(told.stats.get(outcome) for outcome in ("passed", "skipped", "xfailed")):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Whoever runs the tests for a change has all that they need: what is skipped then was not tested."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI"):
        report.outcome, report.longrepr = "failed", f"skipped: {report.longrepr}"
    return report


@pytest.fixture(scope="module")
def new_programs() -> Iterator[None]:
    """Start each `fastgw` as a new program, to the end of the module: its tests are about the process itself."""
    with forked.new_programs():
        yield


@pytest.fixture(scope="module", autouse=True)
def _environment_is_as_before() -> Iterator[None]:
    """A module leaves no variable behind for which each later `fastgw` would be a new program."""
    before = forked.changed_environment()
    yield
    assert forked.changed_environment() == before


@pytest.fixture(scope="session")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    """One gateway with default settings. A module with settings of its own defines its own `lanes`."""
    yield from running(Lanes(tmp_path_factory.mktemp("lanes"), {**PLAIN, "old": Kind()}))


@pytest.fixture
def lane(lanes: Lanes) -> Iterator[Lane]:
    """A host, an upstream and an origin for this test alone."""
    lane = lanes.take()
    yield lane
    lane.end()


@pytest.fixture
def old_lane(lanes: Lanes) -> Iterator[Lane]:
    """A lane whose service may speak HTTP/1.0. The gateway remembers that, and would send it no chunks afterwards."""
    lane = lanes.take("old")
    yield lane
    lane.end()
