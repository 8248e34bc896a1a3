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


@on_loop
async def test_no_entry_has_a_secret(tmp_path: Path) -> None:
    """The URL of a purge may have a token, also one of a name that only a filter of the configuration knows."""
    auditing = Auditing()
    own = "respond: {{}}, filters: {{key_auth: {{key_in: [query], key_names: [badge]}}}}"
    for number, document in enumerate((DOCUMENT, DOCUMENT.replace("respond: {{}}", own))):
        path = tmp_path / f"audit{number}"
        auditing.use_configuration(load_text(document.format(path=path).encode(), "a.yaml", TYPES).config)
        url = "https://a.example/x?access_token=planted&badge=planted-too&page=2"
        changes = "+ a: https://ann:planted@a.example/\n- b: 1"
        auditing.note("token", f"POST /purge?url={url}", f"200 {url} purged", {"url": url, "changes": changes})
        await auditing.stop()
        written = path.read_text()
        assert "planted@" not in written
        assert "=planted&" not in written
        assert ("planted-too" in written) is (number == 0)
        assert written.count("page=2") == 3
        assert "- b: 1" in written
