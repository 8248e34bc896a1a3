"""Notes on listeners with HTTP/2 whose windows are too small."""

from fastgw.config.base.problems import Problem
from fastgw.config.base.value_types import write_size
from fastgw.config.decoding.decoder import BROKEN
from fastgw.config.decoding.merge import Merged
from fastgw.config.settings.gateway import FIRST_STREAM_WINDOW, MOST_STREAM_WINDOW, Http2


def http2_notes(merged: Merged) -> list[Problem]:
    """Return the notes on listeners whose windows do not fit together."""
    notes = []
    for location, _, listener in merged.whole("listeners"):
        if BROKEN in (listener.protocols, listener.tls):
            continue
        if listener.wants_http2 and (wrong := _small_share(listener.http2)) is not None:
            notes.append(location.below("http2", "connection_window").problem(wrong))
        http2 = listener.http2
        wanted = http2.stream_window if http2.stream_window != MOST_STREAM_WINDOW else 0
        if listener.wants_http2 and wanted > http2.shared_window:
            most = write_size(http2.shared_window)
            wrong = (
                f"no request may use more than {most}, which all requests of a connection share (`connection_window`)"
            )
            notes.append(location.below("http2", "stream_window").value_problem(wrong))
    return notes


def _small_share(http2: Http2) -> str | None:
    streams = http2.max_concurrent_streams
    enough = FIRST_STREAM_WINDOW * streams
    if http2.shared_window >= enough:
        return None
    stalled = http2.shared_window // FIRST_STREAM_WINDOW
    return (
        f"it is shared by {streams:,} streams (`max_concurrent_streams`): {stalled:,} uploads whose upstream does not "
        f"read stop all others of the connection; expected at least {write_size(enough)}, 64 KiB for each"
    )
