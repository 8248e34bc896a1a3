"""The audit log of the control process, where a write fails in an unexpected way."""

import asyncio
import threading
from pathlib import Path

import pytest

from fastgw.config import load_text
from fastgw.filters import TYPES
from fastgw.runtime.control.auditing import Auditing
from tests.support.on_loop import on_loop

DOCUMENT = """
version: 1
listeners: {{main: {{address: "127.0.0.1:0"}}}}
audit: {{path: {path}}}
routes: [{{name: all, respond: {{}}}}]
"""


@on_loop
async def test_an_entry_is_on_disk_after_a_moment_in_which_no_thread_could_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for it is woken then."""
    auditing = Auditing()
    auditing.use_configuration(load_text(DOCUMENT.format(path=tmp_path / "audit").encode(), "a.yaml", TYPES).config)
    recording = asyncio.create_task(auditing.record("admin", "reload", "accepted", {}))
    await asyncio.sleep(0)
    waited_for = auditing._written

    def cannot_start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", cannot_start)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await auditing.run()
    assert not waited_for.done()
    running = asyncio.create_task(auditing.run())  # as `keep_running` does
    try:
        await recording
        assert waited_for.done()
        assert b"reload" in (tmp_path / "audit").read_bytes()
    finally:
        running.cancel()
        await auditing.stop()
