"""Files of ACME that something has damaged: they count as missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgw.acme.storage import CertificateState, read_account, read_state


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b'{"error": "\xff"}', b'{"key": "\xff"}', b'{"key": ' + b"[" * 3_000]
)
def test_a_damaged_file_counts_as_missing(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    assert read_state(file) == CertificateState()
    assert read_account(file) is None
