"""Storage of OCSP responses over restarts: a file for each certificate, which is verified again when it is read.

The supervisor reads them before there are workers, so that the first handshakes have them. Control writes them.
"""

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from fastgw import durable_files
from fastgw.config.settings.gateway import Config
from fastgw.net.ocsp import MOST_BYTES, InvalidOcspResponse, Subject, VerifiedResponse, subject_in, verify_response
from fastgw.net.ocsp_stapling import Staple, why_missing
from fastgw.runtime.node.config_snapshot import ConfigSnapshot
from fastgw.runtime.node.state_directory import state_directory
from fastgw.sync.ocsp_responses import FEED, written

_SUFFIX: Final = ".ocsp"
_IS_OURS: Final = re.compile(r"[0-9a-f]{64}\.ocsp|\.[0-9a-f]{64}\.ocsp\.\d+\.new").fullmatch
FORGOTTEN_S: Final = 30 * 24 * 3600
"""Seconds after which a file that was not replaced is removed: its certificate is no longer used."""
_WRITING: Final = threading.Lock()
"""A task that is cancelled leaves its write to its thread: the next write, of the same names, waits for it."""


def folder_of(settings: Config) -> Path | None:
    """Return the folder of the responses: in the state directory, else in that of ACME; None: they are not stored."""
    directory = state_directory() or (None if settings.acme is None else settings.acme.storage)
    return None if directory is None else Path(directory, "ocsp")


def stapled_files(settings: Config) -> Iterator[str]:
    """Yield the files of the certificates that are sent with a response."""
    if why_missing() is None:
        found = (each.tls for each in settings.listeners.values() if each.tls is not None and each.tls.ocsp_stapling)
        yield from dict.fromkeys(pair.certificate_file for tls in found for pair in tls.certificates)


def read_response(folder: Path, subject: Subject, now: float) -> tuple[bytes, VerifiedResponse] | None:
    """Return the stored response for a certificate; None: there is none that can be used. It blocks."""
    try:
        with _file(folder, subject).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        return content, verify_response(content, subject, now)
    except (OSError, InvalidOcspResponse):
        return None


def write_response(folder: Path, subject: Subject, content: bytes) -> None:
    """Store the response for a certificate; b"": none. It blocks. Raises `OSError`."""
    file = _file(folder, subject)
    with _WRITING:
        if not content:
            file.unlink(missing_ok=True)
            return
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable_files.replace(str(file), content, new=str(folder / f".{file.name}.{os.getpid()}.new"))


def remove_old(folder: Path, now: float) -> None:
    """Remove files that no certificate uses any more. It blocks."""
    with suppress(OSError):
        for each in folder.iterdir():
            if _IS_OURS(each.name) and each.stat().st_mtime < now - FORGOTTEN_S:
                each.unlink()


def restore_responses(accepted: ConfigSnapshot, feeds: dict[str, bytes]) -> None:
    """Give the workers the stored responses, in the supervisor, before there are workers. `feeds`: of the node."""
    folder, now = folder_of(accepted.settings), time.time()
    found: dict[bytes, Staple] = {}
    for file in () if folder is None else stapled_files(accepted.settings):
        with suppress(ValueError):
            subject = subject_in(accepted.captured[file])
            if isinstance(subject, Subject) and folder is not None:
                stored = read_response(folder, subject, now)
                if stored is not None and not stored[1].is_revoked:
                    found[subject.digest] = Staple(stored[0], stored[1].until)
    if found:
        feeds[FEED] = written(found)


def _file(folder: Path, subject: Subject) -> Path:
    return folder / f"{subject.digest.hex()}{_SUFFIX}"
