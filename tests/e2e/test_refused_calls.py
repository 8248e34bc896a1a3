"""System calls that a container's seccomp profile refuses: what is required is told as what it is, the rest is done
without."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastgw import kernel
from fastgw.runtime.process.machine_capacity import USUAL_FILES, file_limit
from tests.support.certificates import Certificates
from tests.support.forked import FASTGW
from tests.support.gateway import STOP_DEADLINE, Gateway, write_config

ROOT = Path(__file__).parent.parent.parent
GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"


def document(**more: Any) -> dict[str, Any]:
    routes = [{"name": "all", "paths": ["/*"], "respond": {"body": "here"}}]
    return {"version": 1, "workers": 2, "listeners": {"main": {"address": "127.0.0.1:0"}}, "routes": routes, **more}


def without(call: str) -> list[str]:
    """What a command begins with that may not use this call."""
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{REFUSE}", call]


REFUSE = """
import os
from tests.support.refusing import refuse
refuse(sys.argv[1])
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize("call", ["memfd_create", "eventfd2"])
def test_a_call_that_is_needed_is_named_in_one_line(call: str, tmp_path: Path) -> None:
    file = write_config(document(), tmp_path)
    ended = subprocess.run(
        [*without(call), FASTGW, "run", str(file)], capture_output=True, text=True, timeout=STOP_DEADLINE, check=False
    )
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.startswith(
        f"fastgw: the system call {call} is not permitted (Operation not permitted); fastgw needs"
    )
    assert ended.stderr.endswith(
        "Allow it in the seccomp profile of the container or in SystemCallFilter= of the unit\n"
    )
    assert ended.stderr.count("\n") == 1


def test_a_check_that_needs_it_says_so_as_well(tmp_path: Path) -> None:
    """It is wrong with the surroundings, not with the certificate."""
    certificates = Certificates(tmp_path)
    certificate, key = certificates.issue("a.test")
    tls = {"certificates": [{"certificate": str(certificate), "key": str(key)}]}
    file = write_config(document(listeners={"main": {"address": "127.0.0.1:0", "tls": tls}}), tmp_path)
    ended = subprocess.run(
        [*without("memfd_create"), FASTGW, "check", str(file)],
        capture_output=True,
        text=True,
        timeout=STOP_DEADLINE,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.startswith("fastgw: the system call memfd_create is not permitted")
    assert ended.stderr.count("\n") == 1


def test_what_is_not_needed_is_not_missed(tmp_path: Path) -> None:
    """Without `prlimit` as many files may be open as before, and no more is said of it than of any low limit."""
    config = document(limits={"connections": 100})
    with Gateway(config, tmp_path, launcher=without("prlimit64")) as gateway, gateway.connect() as client:
        assert client.exchange(GET).body == b"here"
        said = gateway.stderr.text()
    assert "limits.connections" not in said
    assert "error" not in said


def test_a_low_limit_is_told_where_prlimit_is_refused(tmp_path: Path) -> None:
    launcher = ["sh", "-c", 'ulimit -Sn 400; exec "$@"', "sh", *without("prlimit64")]
    with Gateway(document(limits={"connections": 5000}), tmp_path, launcher=launcher) as gateway:
        with gateway.connect() as client:
            assert client.exchange(GET).body == b"here"
        gateway.stderr.wait_for(lambda line: b"400 open files per process hold about 336 connections" in line)


def test_where_nothing_tells_the_limit_it_is_the_usual_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(kind: int) -> tuple[int, int]:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("fastgw.runtime.process.machine_capacity.resource.getrlimit", refused)
    assert file_limit(tmp_path / "missing") == USUAL_FILES
    (tmp_path / "limits").write_text(
        "Max processes             7 8 processes\nMax open files            123 456 files\n"
    )
    assert file_limit(tmp_path / "limits") == 123


@pytest.mark.parametrize(("number", "told"), [(errno.ENOSYS, kernel.CallRefused), (errno.EMFILE, OSError)])
def test_a_want_of_descriptors_is_no_refusal(
    number: int, told: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(name: str, flags: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(kernel.os, "memfd_create", fails)
    with pytest.raises(told):
        kernel.verify()
