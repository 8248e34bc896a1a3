"""A recording that has recorded nothing replaces no earlier one."""

from pathlib import Path
from typing import Any, cast

import pytest

from fastgw.admin.client import AdminClient, Unreachable
from fastgw.admin.node_interface import RecordingBegun, RecordingWanted
from fastgw.replay.capture import Captured, capture


class _Stopping:
    """The client of a gateway that stops before a request has come."""

    def change(self, *_: Any) -> RecordingBegun:
        return RecordingBegun(id="1", version="1", generation=1)

    def fetch(self, path: str) -> bytes:
        raise Unreachable("the gateway has ended")

    def delete(self, path: str) -> None: ...


@pytest.mark.parametrize("earlier", [[], ["a.rec"]])
def test_no_file_is_written_and_an_earlier_one_is_left(tmp_path: Path, earlier: list[str]) -> None:
    for name in earlier:
        (tmp_path / name).write_text("yesterday's requests")
    wanted = RecordingWanted(requests=3)
    captured = capture(cast(AdminClient, _Stopping()), wanted, str(tmp_path / "a.rec"), b"k" * 32)
    assert captured == Captured(0, 0, "the gateway has ended")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [
        (name, "yesterday's requests") for name in earlier
    ]
