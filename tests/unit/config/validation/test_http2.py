"""What `fastgw check` says of the windows of HTTP/2, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgw.config import load
from fastgw.config.loading.load import Loaded


def loaded(folder: Path, http2: str, protocols: str = "[http2]") -> Loaded:
    file = folder / "a.yaml"
    listener = f"  l1:\n    address: a:1\n    protocols: {protocols}\n    http2: {http2}\n"
    file.write_text(f"version: 1\nadmin: null\nlisteners:\n{listener}")
    return load(str(file), {})


def notes(folder: Path, http2: str, protocols: str = "[http2]") -> list[str]:
    found = [str(each).removeprefix(f"{folder}/") for each in loaded(folder, http2, protocols).notes]
    return [each for each in found if "connection_window" in each]


@pytest.mark.parametrize(("streams", "window"), [(1, 1537), (100, 1636), (10_000, 11_536)])
def test_the_window_of_a_connection_is_enough_for_its_streams_by_default(
    tmp_path: Path, streams: int, window: int
) -> None:
    """96 MiB, and 64 KiB for each."""
    http2 = loaded(tmp_path, f"{{max_concurrent_streams: {streams}}}").config.listeners["l1"].http2
    assert http2.shared_window == window * 65_536
    assert notes(tmp_path, f"{{max_concurrent_streams: {streams}}}") == []


def test_a_window_that_is_too_small_for_its_streams_is_noted(tmp_path: Path) -> None:
    assert notes(tmp_path, "{max_concurrent_streams: 10000, connection_window: 1MiB}") == [
        "a.yaml:7:44: listeners.l1.http2.connection_window: it is shared by 10,000 streams (`max_concurrent_streams`): "
        "16 uploads whose upstream does not read stop all others of the connection; expected at least 625MiB, "
        "64 KiB for each"
    ]
    assert len(notes(tmp_path, "{connection_window: 64KiB}")) == 1
    assert notes(tmp_path, "{connection_window: 6400KiB}") == []
    assert notes(tmp_path, "{connection_window: 64KiB}", "[http1]") == []


def test_a_window_of_a_request_above_that_of_the_connection_is_noted(tmp_path: Path) -> None:
    (told,) = loaded(tmp_path, "{stream_window: 9MiB, connection_window: 8MiB}").notes
    wanted = (
        "a.yaml:7:28: listeners.l1.http2.stream_window: no request may use more than 8MiB, which all requests of a "
        "connection share (`connection_window`)"
    )
    assert str(told).removeprefix(f"{tmp_path}/") == wanted
    assert len(loaded(tmp_path, "{stream_window: 128MiB}").notes) == 1
    assert loaded(tmp_path, "{connection_window: 8MiB}").notes == ()  # nobody has asked for more
    assert loaded(tmp_path, "{stream_window: 8MiB, connection_window: 8MiB}").notes == ()
