"""Access logs that cannot be written to: a start or a reload with one is refused."""

from collections.abc import Iterator
from typing import Final

from fastgw.config import Loaded
from fastgw.config.loading.locate_setting import UnusableSetting
from fastgw.observe.access_log.sink import why_not

_FILE: Final = "expected `stdout`, or a file that this user can write, in a directory that exists"
_PEM: Final = "expected files in PEM that this user can read"


def unusable_sinks(loaded: Loaded) -> Iterator[UnusableSetting]:
    """Yield the sinks that this process cannot write to, as far as it can be checked in advance."""
    for index, access_log in enumerate(loaded.config.access_logs):
        if wrong := why_not(access_log.sink):
            path = ("access_logs", index, "sink") if loaded.files else ("--access-log",)
            is_file = isinstance(access_log.sink, str) or access_log.sink.file is not None
            yield UnusableSetting(path, wrong, _FILE if is_file else _PEM)
