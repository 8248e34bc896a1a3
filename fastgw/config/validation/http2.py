"""Notes on listeners with HTTP/2 if this installation does not support it."""

from fastgw.compiled import PURE
from fastgw.config.base.problems import Problem
from fastgw.config.decoding.decoder import BROKEN
from fastgw.config.decoding.merge import Merged
from fastgw.config.settings.gateway import Listener
from fastgw.http.http2.session import why_missing

_CURE = "install libnghttp2 and a fastgw that was compiled with it"


def lacks_http2(listener: Listener) -> str | None:
    """Return the reason why a listener does not offer HTTP/2 although configured; None = it does, or is not
    configured.
    """
    why = why_missing()
    if why is None or not listener.wants_http2 or (PURE and listener.protocols is None):
        return None
    return f"HTTP/2 is not offered: {why}; {_CURE}"


def http2_notes(merged: Merged) -> list[Problem]:
    """Return a note for each listener without the configured HTTP/2."""
    notes = []
    for location, _, listener in merged.whole("listeners"):
        if BROKEN not in (listener.protocols, listener.tls) and (wrong := lacks_http2(listener)) is not None:
            notes.append(location.problem(wrong))
    return notes
