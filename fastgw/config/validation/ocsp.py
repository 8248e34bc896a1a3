"""Notes on OCSP stapling: certificates without a response, and those that clients reject without one."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from fastgw.config.base.problems import Problem
from fastgw.config.decoding.decoder import BROKEN
from fastgw.config.decoding.merge import Merged, SourceLocation
from fastgw.config.formats.positions import SyntaxProblem
from fastgw.config.settings.gateway import Listener
from fastgw.net.ocsp import demands_response, subject_in
from fastgw.net.ocsp_stapling import why_missing
from fastgw.net.placeholder import holds_placeholder

_MUST: Final = "clients reject the certificate without an OCSP response (must-staple)"


def lacks_stapling(listener: Listener) -> str | None:
    """Return the reason why a listener does not staple although configured; None = it does, or is not configured."""
    why = why_missing()
    if why is None or listener.tls is None or not listener.tls.ocsp_stapling:
        return None
    return f"OCSP responses are not stapled: {why}"


def ocsp_notes(merged: Merged) -> list[Problem]:
    """Return the notes on all listeners."""
    notes = []
    for location, _, listener in merged.whole("listeners"):
        if listener.tls in (None, BROKEN) or BROKEN in (listener.tls.ocsp_stapling, listener.tls.certificates):
            continue
        at = location.below("tls")
        if (wrong := lacks_stapling(listener)) is not None:
            notes.append(at.below("ocsp_stapling").problem(wrong))
        notes += _certificate_notes(listener.tls, at)
    return notes


def _certificate_notes(tls: Any, at: SourceLocation) -> Iterator[Problem]:
    for index, pair in enumerate(tls.certificates):
        if pair is BROKEN or BROKEN in (pair.certificate, pair.acme):
            continue
        if pair.acme is not None and BROKEN in (pair.acme.domains, pair.acme.storage, pair.acme.key):
            continue
        with suppress(SyntaxProblem, ValueError):  # told where the file is checked
            content = at.reading.files.read(pair.certificate_file)
            if holds_placeholder(content):
                continue
            wrong = _wrong_with(content, is_stapled=tls.ocsp_stapling)
            if wrong:
                yield at.below("certificates", index, "certificate" if pair.acme is None else "acme").problem(wrong)


def _wrong_with(content: bytes, *, is_stapled: bool) -> str:
    """Raises `ValueError` for a file without a certificate."""
    must = demands_response(content)
    if not is_stapled:
        return f"{_MUST}; set `ocsp_stapling: true`" if must else ""
    why = subject_in(content)
    if not isinstance(why, str):
        return ""
    return f"no OCSP response can be stapled: {why}" + (f"; {_MUST}" if must else "")
