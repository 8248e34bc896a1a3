"""Targets from DNS, handled like files: looked up when read, and again after an interval.

Rule 1: results are stored with the files of a configuration (`files.Disk`), so validation, caching and reload treat
both alike. A failed lookup is a file that cannot be read: the previous result stays in use.
Rule 2: the system's resolver may hang for any time, so lookups run in threads of their own, several at once, and are
never joined. A reading goes on without the result after a short time; a result that comes later is a changed file.
"""

import json
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Container, Iterable
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from fastgw.config.base.problems import LOOKUPS
from fastgw.config.formats.positions import MissingPackage, SyntaxProblem
from fastgw.config.sources.target_addresses import MOST_PRIORITY, add_target, target_url
from fastgw.config.sources.target_weights import scale_weights
from fastgw.operator_events import OperatorEvent, log_event

TIMEOUT_S: Final = 5.0
"""Timeout of an SRV lookup, in seconds; other lookups use the timeout of the system's resolver."""
AT_START_S: Final = 10.0
"""Seconds that a reading waits for lookups that have no previous result, all together."""
ANSWER_S: Final = 0.5
"""Seconds that a reading waits for lookups that have a previous result, all together. A name whose last lookup took
longer is not waited for.
"""
AT_ONCE: Final = 32
"""Maximum number of concurrent lookups."""
STACK_BYTES: Final = 1024 * 1024
"""Stack of a lookup's thread: the process that checks a document has little memory for threads."""
UNKNOWN: Final = b"[]"
"""Contents of a lookup without any result yet: no targets."""
_FIRST_S: Final = 1.0


class _Lookup:
    """Lookups of one name: the last result, and whether one is running."""

    def __init__(self) -> None:
        self.content: bytes | None = None
        """The last targets."""
        self.problem: SyntaxProblem | None = None
        """Error of the last lookup; None: it has succeeded."""
        self.failures = 0
        """Failures in a row. Lookups that were not due do not count, or each would be a reason for the next."""
        self.due_at = 0.0
        """Time of the next attempt after a failure (monotonic seconds)."""
        self.began_at = 0.0
        self.running = False
        self.was_due = False
        """Whether the running lookup was due when it began."""
        self.unawaited = False
        """Whether a reading has gone on without the result of the running lookup."""
        self.slow = False
        """Whether the last lookup took longer than a reading waits."""
        self.late = 0
        """Number of results that came after a reading had gone on without them."""

    def is_due(self, interval: float, now: float) -> bool:
        if self.failures:
            return now >= self.due_at
        return int(now / interval) > int(self.began_at / interval)

    def ended(self, content: bytes | None, problem: SyntaxProblem | None, interval: float) -> None:
        """Record the result of the running lookup."""
        now = time.monotonic()
        if problem is None:
            self.late += self.unawaited and (self.problem is not None or content != self.content)
            self.content, self.failures = content, 0
        elif self.was_due or not self.failures:
            self.failures += 1
            self.due_at = now + min(_FIRST_S * 2.0 ** min(self.failures - 1, 30), interval)
        self.problem = problem
        self.slow = now - self.began_at > ANSWER_S
        self.running = self.unawaited = False


_changed = threading.Condition()
"""Lock of all that follows; notified when a lookup has ended."""
_lookups: Final[dict[str, _Lookup]] = {}
_unusable: Final[dict[str, str]] = {}
"""Problems of SRV records in the last answer, by name."""
_queue: Final[deque[tuple[str, _Lookup]]] = deque()
_threads = 0


def _forget_lookups() -> None:
    """Begin a forked process without lookups: it has none of the threads, and older results than those in force."""
    global _changed, _threads
    _changed = threading.Condition()
    _lookups.clear()
    _unusable.clear()
    _queue.clear()
    _threads = 0


os.register_at_fork(after_in_child=_forget_lookups)


def lookup_name(kind: str, name: str, port: int, scheme: str, interval: float) -> str:
    """Return the name of the virtual file with these targets. `kind`: one of `LOOKUPS`; `port`: for `dns` only."""
    where = f"{name}:{port}" if kind == "dns" else name
    return f"{kind}://{where}?scheme={scheme}&interval={interval:.15g}"


def is_lookup(name: str) -> bool:
    """Whether a file's name is that of a lookup."""
    scheme, is_url, _ = name.partition("://")
    return bool(is_url) and scheme in LOOKUPS


def turn_of(name: str) -> str:
    """Return a text that changes when the next lookup is due: after the interval; sooner after a failure, with
    exponential backoff; and when a result has come that a reading did not wait for."""
    now = time.monotonic()
    with _changed:
        lookup = _lookups.get(name)
        if lookup is None:
            return str(int(now / _interval(name)))
        late = f" {lookup.late} late" if lookup.late else ""
        if lookup.failures:
            return f"{lookup.failures + (now >= lookup.due_at)} failed{late}"
        return f"{int(now / _interval(name))}{late}"


def keep_lookups(names: Container[str]) -> None:
    """Drop the results of all other names."""
    with _changed:
        for name in [name for name, each in _lookups.items() if name not in names and not each.running]:
            del _lookups[name]
            _unusable.pop(urlsplit(name).netloc, None)


def begin_lookups(names: Iterable[str]) -> None:
    """Look these names up in the background, all at the same time. One that was slow is looked up only when it is
    due.
    """
    now = time.monotonic()
    with _changed:
        for name in names:
            lookup = _lookups.setdefault(name, _Lookup())
            if not lookup.running and (not lookup.slow or lookup.is_due(_interval(name), now)):
                lookup.was_due = lookup.is_due(_interval(name), now)
                lookup.began_at, lookup.running = now, True
                _queue.append((name, lookup))
                _start_thread()


def looked_up(name: str, *, begun: bool = False, has_previous: bool = False) -> bytes:
    """Return the targets as JSON, sorted so that the order of answers does not matter. `begun`: the caller has begun
    the lookup. `has_previous`: there is a previous result, so that the caller can do without a new one. Raises
    `SyntaxProblem`.
    """
    with _changed:
        if not begun or name not in _lookups:
            begin_lookups([name])
        lookup = _lookups[name]
        longest_s = (0.0 if lookup.slow else ANSWER_S) if has_previous else AT_START_S
        left_s = max(0.0, lookup.began_at + longest_s - time.monotonic())
        if not _changed.wait_for(lambda: not lookup.running, left_s):
            lookup.slow = lookup.unawaited = True
        if lookup.problem is not None:
            raise type(lookup.problem)(lookup.problem.wrong)
        if lookup.content is None:
            raise SyntaxProblem("not resolved yet: DNS has not answered")
        return lookup.content


def _start_thread() -> None:
    """Start another thread for what is queued, if more are allowed."""
    global _threads
    if _threads >= AT_ONCE:
        return
    before = threading.stack_size(STACK_BYTES)
    try:
        threading.Thread(target=_look_up_queued, name="lookup of targets", daemon=True).start()
        _threads += 1
    except RuntimeError as error:  # the system allows no more threads
        if not _threads:
            name, lookup = _queue.pop()
            lookup.ended(None, SyntaxProblem(f"cannot be resolved: {error}"), _interval(name))
    finally:
        threading.stack_size(before)


def _look_up_queued() -> None:
    global _threads
    has_ended = False
    try:
        while True:
            with _changed:
                if not _queue:
                    _threads -= 1  # under the same lock, so that a lookup that is queued now starts another thread
                    has_ended = True
                    return
                name, lookup = _queue.popleft()
            _look_up(name, lookup)
    finally:
        if not has_ended:
            with _changed:
                _threads -= 1
                if _queue:
                    _start_thread()


def _look_up(name: str, lookup: _Lookup) -> None:
    content: bytes | None = None
    problem: SyntaxProblem | None = SyntaxProblem(f"{urlsplit(name).netloc} cannot be resolved: the lookup has failed")
    try:
        content, problem = _find_targets(name), None
    except SyntaxProblem as flaw:
        problem = flaw.with_traceback(None)  # it is kept, and the traceback is a reference cycle
    finally:
        with _changed:
            lookup.ended(content, problem, _interval(name))
            _changed.notify_all()


def _find_targets(name: str) -> bytes:
    split = urlsplit(name)
    found = _addresses if split.scheme == "dns" else _services
    targets = found(split.netloc, _options(name)["scheme"])
    return json.dumps(sorted(targets, key=lambda each: (each.get("priority", 0), each["url"]))).encode()


def _interval(name: str) -> float:
    return float(_options(name)["interval"])


def _options(name: str) -> dict[str, str]:
    return {key: value for key, (value,) in parse_qs(urlsplit(name).query).items()}


def _addresses(where: str, scheme: str) -> list[dict[str, Any]]:
    host, _, port = where.rpartition(":")
    try:
        answers = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (
        OSError,
        UnicodeError,
    ) as error:  # a gaierror is the first of these; the second is raised for an empty or overlong label
        raise SyntaxProblem(f"{host} cannot be resolved: {getattr(error, 'strerror', None) or error}") from error
    addresses = {str(address[0]) for *_, address in answers}
    return [{"url": f"{scheme}://{f'[{each}]' if ':' in each else each}:{port}"} for each in addresses]


def _report_unusable(name: str, problems: Iterable[str]) -> None:
    """Report SRV records that are not used as they are, once until that changes: one must not hold up all others."""
    text = "; ".join(problems)
    with _changed:
        before = _unusable.pop(name, "")
        if text:
            _unusable[name] = text
    if text and text != before:
        log_event(OperatorEvent.FEED_FAILED, "srv: %s: %s", name, text)


def _left_out(count: int, what: str) -> Iterable[str]:
    """Yield the problem of this number of records, if there are any."""
    if count:
        yield f"{count} {f'record has {what} and is' if count == 1 else f'records have {what} and are'} left out"


def _services(name: str, scheme: str) -> list[dict[str, Any]]:
    try:
        from dns import exception, resolver
    except ImportError as error:
        raise MissingPackage("SRV records need the package dnspython; pip install 'fastgw[dns]'") from error
    try:
        answers = [*resolver.resolve(name, "SRV", lifetime=TIMEOUT_S)]
    except (exception.DNSException, OSError) as error:
        raise SyntaxProblem(f"{name} cannot be resolved: {error}") from error
    if all(each.target.to_text() == "." for each in answers):  # RFC 2782
        raise SyntaxProblem(
            f"{name} cannot be used: its SRV record says that the service is not available (target `.`)"
        )
    records = [each for each in answers if each.target.to_text() != "."]
    with_port = [each for each in records if each.port]
    found: dict[str, dict[str, Any]] = {}
    unusable = 0
    ranks = {priority: rank for rank, priority in enumerate(sorted({each.priority for each in with_port}))}
    for each in with_port:
        url = target_url(scheme, each.target.to_text(omit_final_dot=True), each.port)
        if url is None:
            unusable += 1
        else:
            priority = min(ranks[each.priority], MOST_PRIORITY)
            add_target(found, {"url": url, "weight": max(each.weight, 1), "priority": priority})
    problems = [*_left_out(len(records) - len(with_port), "port 0"), *_left_out(unusable, "no valid host name")]
    if len(ranks) > MOST_PRIORITY + 1:
        problems.append(f"{len(ranks)} priorities, and all after {MOST_PRIORITY + 1} count as the last one of these")
    _report_unusable(name, problems)
    if not found:
        raise SyntaxProblem(f"{name} cannot be used: no SRV record has a valid host name and a port")
    targets = [*found.values()]
    scale_weights(targets)
    return targets
