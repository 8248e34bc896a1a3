"""Selection of the requests that a log has: conditions and shares."""

from collections.abc import Callable, Mapping, Sequence
from random import random

from fastgw.config.base.settings_base import listed
from fastgw.config.settings.gateway import AccessLog
from fastgw.config.settings.log_lines import LogCondition
from fastgw.observe.access_log.record import Record

Test = Callable[[Record], bool]


def selection_of(settings: AccessLog) -> Test | None:
    """Return the test whether a log has a request. None: it has all of them."""
    tests = []
    if settings.only is not None:
        tests.append(_test_of(settings.only))
    if settings.sample < 1.0 or settings.sample_routes:
        tests.append(_share_of(settings.sample, settings.sample_routes))
    if not tests:
        return None
    chosen = _all_of(tests)
    if settings.always is None:
        return chosen
    always = _test_of(settings.always)
    return lambda record: always(record) or chosen(record)


def _share_of(share: float, of_routes: Mapping[str, float]) -> Test:
    shares = dict(of_routes)
    return lambda record: random() < shares.get(record.route, share)


def _test_of(condition: LogCondition) -> Test:
    tests: list[Test] = []
    if condition.status:
        statuses = _statuses(condition.status)
        tests.append(lambda record: record.status in statuses)
    if condition.method:
        methods = frozenset(name.encode() for name in listed(condition.method))
        tests.append(lambda record: record.method in methods)
    for attribute in ("route", "listener", "consumer"):
        if names := frozenset(listed(getattr(condition, attribute))):
            tests.append(_name_test(attribute, names))
    if (fault := condition.fault) is not None:
        tests.append(lambda record: bool(record.fault) is fault)
    if (slower_than := condition.slower_than) is not None:
        tests.append(lambda record: record.duration_s > slower_than)
    return _all_of(tests)


def _name_test(attribute: str, names: frozenset[str]) -> Test:
    return lambda record: getattr(record, attribute) in names


def _statuses(statuses: int | tuple[int, ...]) -> frozenset[int]:
    chosen: set[int] = set()
    for status in listed(statuses):
        chosen.update((status,) if status >= 100 else range(100 * status, 100 * status + 100))
    return frozenset(chosen)


def _all_of(tests: Sequence[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]
    return lambda record: all(test(record) for test in tests)
