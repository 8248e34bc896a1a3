"""The process that talks to an issuer, as control runs it: a child with a time limit, for one job."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import msgspec

from fastgw.acme.messages import MOST_LINE, Failed, FromIssuing, Issued, Job, Renewal, ToAnswer

COMMAND: Final = (sys.executable, "-P", "-B", "-m", "fastgw.acme.issuing")
ENVIRONMENT: Final = ("PATH", "SSL_CERT_FILE", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "LANG")
"""Variables that the process, and the hook that it starts, get from the gateway's."""
GRACE_S: Final = 5.0
"""Seconds after the job's time limit until the process is killed from here."""
REAP_S: Final = 0.01

Answer = Callable[[ToAnswer], Awaitable[None]]


async def run_job(job: Job, answer: Answer) -> Issued | Renewal | Failed:
    """Run a job in a process of its own, which has ended afterwards. `answer`: makes the workers answer challenges."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            process = _started(theirs)
    except OSError as error:
        ours.close()
        return Failed(f"the process cannot be started: {error.strerror or error}")
    try:
        async with asyncio.timeout(job.seconds + GRACE_S):
            return await _converse(ours, job, answer)
    except TimeoutError:
        return Failed(f"not finished in {job.seconds:g} s")
    except (OSError, msgspec.DecodeError, ValueError) as error:
        return Failed(f"the process has failed: {error}")
    finally:
        ours.close()
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        while process.poll() is None:
            await asyncio.sleep(REAP_S)


def _started(standard_input: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        COMMAND,
        stdin=standard_input.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        cwd="/",
        close_fds=True,
    )


async def _converse(ours: socket.socket, job: Job, answer: Answer) -> Issued | Renewal | Failed:
    ours.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=ours, limit=MOST_LINE)
    try:
        writer.write(msgspec.json.encode(job) + b"\n")
        while line := await reader.readline():
            message: FromIssuing = msgspec.json.decode(line, type=FromIssuing)
            if not isinstance(message, ToAnswer):
                return message
            await answer(message)
            writer.write(b"{}\n")
        return Failed("the process has ended without a result")
    finally:
        writer.close()
