"""Operator events: each message of the gateway to its operators has an event with a stable name and a level.

Rule 1: alerts and searches rely on names; a text may change. Rule 2: the caller names the event. Rule 3: the processes
of a gateway write it (`operator_log`); elsewhere it is a record of the logger `fastgw`, with its `event`.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum, unique
from typing import Final

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR
LEVELS: Final = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR}
"""Levels by their names in `log.level`."""

_log = logging.getLogger("fastgw")


@unique
class OperatorEvent(Enum):
    """All events. The lower-case name appears in the message."""

    # life cycle of the gateway
    LISTENING = INFO, "The gateway serves."
    LISTENER_LEFT_OUT = WARNING, "A default listener has no address: its port is taken."
    START_WARNING = WARNING, "A warning at the start; the gateway serves nevertheless."
    MESSAGES_LOST = WARNING, "Messages of a process were lost: stderr could not be written, as on a full disk."
    CONFIG_NOTE = WARNING, "A note on the active configuration."
    DRAINING = INFO, "The gateway drains: it accepts no new connections and stops when all requests have finished."
    STOPPED = INFO, "The gateway has stopped."
    UPGRADING = INFO, "An upgrade in place is in progress: another version is tried or takes over."
    UPGRADED = INFO, "The upgrade is complete: the installed version serves."
    UPGRADE_REFUSED = ERROR, "An upgrade was requested and did not take place."
    # processes
    PROCESS_FAILED = ERROR, "A process failed with an error."
    PROCESS_ENDED = WARNING, "A process ended unexpectedly; it is replaced."
    CRASH_LOOP = ERROR, "Crash loop: a process ends repeatedly soon after its start."
    PROCESS_SILENT = ERROR, "A process hangs: it sends no heartbeat."
    PROCESS_BACK = WARNING, "A process sends heartbeats again."
    PROCESS_KILLED = ERROR, "A process hung, or did not stop in time, and was killed."
    REQUESTS_CUT = WARNING, "A worker ended with requests or tunnels in flight."
    CONNECTIONS_LOST = WARNING, "A worker ended with connections of `websocket_api`: another one sends `$disconnect`."
    WORKERS_UNCHANGED = ERROR, "The number of workers could not be changed."
    ACCEPT_PAUSED = ERROR, "A worker cannot accept connections for a moment."
    # configuration
    RELOADED = INFO, "A new configuration is active."
    RELOAD_REFUSED = ERROR, "A configuration was rejected; the previous one stays active."
    CONFIG_PROBLEM = ERROR, "An error in a configuration that was rejected."
    FILE_KEPT = ERROR, "A file's new contents are invalid; the previous contents stay active (a new file is not used)."
    FILE_BACK = INFO, "A file is valid again."
    FILE_WARNING = WARNING, "A note on the active contents of a file."
    FILES_NOT_WATCHED = ERROR, "The configuration's files are no longer watched."
    CERTIFICATE_MISSING = WARNING, "A certificate is not issued yet: clients get a self-signed placeholder."
    CERTIFICATE_ISSUED = INFO, "A certificate was obtained by ACME."
    CERTIFICATE_NOT_ISSUED = ERROR, "A certificate could not be obtained by ACME; it is tried again."
    CERTIFICATE_RENEWAL_DELAYED = WARNING, "An issuer demands renewals of certificates that it has just issued."
    CERTIFICATE_REVOKED = ERROR, "An OCSP responder says that a server certificate is revoked."
    OCSP_NOT_RENEWED = WARNING, "An OCSP response for a certificate could not be fetched or stored; it is tried again."
    OCSP_RESPONSE_BACK = INFO, "The OCSP response for a certificate was renewed again."
    # clients
    CONNECTION_REFUSED = WARNING, "A client connection was refused."
    CONNECTION_EVICTED = WARNING, "An idle client connection was closed to make room for another one."
    TLS_HANDSHAKE_FAILED = WARNING, "A client's TLS handshake failed or was aborted."
    # upstreams
    TARGET_FAILED = WARNING, "A target could not be connected to."
    TARGET_UNHEALTHY = WARNING, "Health checks find that a target fails."
    TARGET_HEALTHY = WARNING, "Health checks find that a target is healthy again."
    TARGET_EJECTED = WARNING, "A target gets no requests for a while: it keeps failing."
    TARGET_RESTORED = WARNING, "A target is not ejected any more."
    TARGET_NOT_CHECKED = ERROR, "A target's health cannot be checked."
    BREAKER_CHANGED = WARNING, "A circuit breaker has opened, half opened or closed."
    # feeds and shared state
    FEED_FAILED = WARNING, "Data for filters, such as keys, could not be fetched."
    FEED_BACK = WARNING, "Data for filters is fetched again."
    KEY_PASSED_OVER = DEBUG, "A key of a key set is not used."
    STATE_UNREACHABLE = ERROR, "The Redis of `state` is unreachable."
    STATE_BACK = WARNING, "The Redis of `state` is reachable again."
    STATE_STRANGE = WARNING, "The Redis of `state` holds a value that fastgw has not written."
    REVOCATIONS_NOT_SHARED = ERROR, "Revocations are not shared with other nodes."
    REVOCATIONS_FORGOTTEN = ERROR, "There are more revocations than the table holds."
    PURGES_NOT_SHARED = ERROR, "Purges of caches are not shared with other nodes."
    PURGES_NOT_KEPT = ERROR, "Purges of caches that wait for Redis cannot be kept in their file."
    CACHE_DISK_TROUBLE = WARNING, "Files of a cache's disk tier cannot be read or written for the moment."
    CACHE_DISK_FAILED = ERROR, "A purge could not be written to a cache's disk tier, which is not used any more."
    QUOTAS_NOT_KEPT = ERROR, "Counts of quotas cannot be kept in their file."
    QUOTAS_KEPT = WARNING, "Counts of quotas are kept in their file again."
    AUDIT_NOT_WRITTEN = ERROR, "The audit log cannot be written: its entries wait in memory."
    AUDIT_WRITTEN = WARNING, "The audit log is written again."
    ANALYTICS_NOT_KEPT = ERROR, "Analytics cannot be written to their database: counts wait in memory."
    ANALYTICS_KEPT = WARNING, "Analytics are written to their database again."
    FILE_SET_ASIDE = ERROR, "A damaged file of the gateway was renamed: the gateway goes on with a new one."
    # filters
    FILTER_RAISED = ERROR, "A step of a filter failed by an error of its own."
    FILTER_VALUE_UNFIT = WARNING, "A filter could not set a header: its value is not allowed in one."
    SESSION_UNREFRESHED = WARNING, "A session could not be refreshed."
    SESSION_ENDED = DEBUG, "A session has ended."
    # helper processes of workers
    HELPER_ENDED = ERROR, "A helper process has failed, or was killed because it took too long; it is replaced."
    HELPER_BACK = WARNING, "Helper processes answer again."
    HELPER_UNLIMITED = WARNING, "A helper process runs without some of its limits, which a sandbox refuses."
    # access logs and internal errors
    ACCESS_LOG_FAILED = ERROR, "An access log cannot be written: lines are dropped and counted."
    ACCESS_LOG_BACK = WARNING, "An access log can be written again."
    # traces
    TRACES_FAILED = ERROR, "Spans cannot be exported to the collector: they are dropped once the queue is full."
    TRACES_REJECTED = WARNING, "The collector has rejected spans: they are dropped."
    TRACES_BACK = WARNING, "Spans are exported again."
    # metrics
    METRICS_NOT_PUSHED = ERROR, "Metrics cannot be pushed: they are pushed later, with the counts of then."
    METRICS_PUSHED = WARNING, "Metrics are pushed again."
    ADMIN_UNANSWERED = ERROR, "The admin listener cannot be served for a while."
    ADMIN_BACK = WARNING, "The admin listener is served again."
    ADMIN_TOKEN_UNREADABLE = ERROR, "The token of the admin API cannot be read: requests with it are rejected."
    DEFECT = ERROR, "A bug in fastgw. Please report it."
    LIBRARY = WARNING, "A message of a library that fastgw uses."
    DEMO = INFO, "What to try in the demo."

    def __init__(self, level: int, meaning: str) -> None:
        self.level, self.meaning = level, meaning
        self.label = self.name.lower()


_silent: Final = ContextVar("silent", default=False)


@contextmanager
def silently() -> Iterator[None]:
    """Suppress messages in this context: its code is a trial without clients."""
    before = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(before)


def log_event(event: OperatorEvent, text: str, *values: object, error: BaseException | bool | None = None) -> None:
    """Log an event; `text` is formatted with `values`. `error` is appended; True: the exception being handled."""
    if not _silent.get():
        _log.log(event.level, text, *values, exc_info=error, extra={"event": event})


OUTAGE_REPORT_S: Final = 60.0
"""Minimum interval in seconds between reports of an outage."""


class OutageReports:
    """Selects the failures to report of what is repeated until it succeeds: the first one of an outage, and one whose
    cause is another than the cause reported last, once in `OUTAGE_REPORT_S`, because causes may alternate.
    """

    def __init__(self) -> None:
        self._cause: str | None = None
        self._due_at = 0.0

    def is_due(self, cause: str, now: float) -> bool:
        """Handle a failure; return whether to report it. `now`: monotonic seconds."""
        if self._cause is not None and (cause == self._cause or now < self._due_at):
            return False
        self._cause, self._due_at = cause, now + OUTAGE_REPORT_S
        return True

    def has_ended(self) -> bool:
        """Handle a success; return whether it ends an outage."""
        cause, self._cause = self._cause, None
        return cause is not None
