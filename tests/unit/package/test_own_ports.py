"""Blocks of ports: each process of tests has one of its own, whatever else runs on the machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.own_ports import BLOCKS, NoBlockLeft, claim_block, listen_on_own_port, own_port

CLAIM = """
import sys
from tests.support.own_ports import claim_block

block = claim_block(sys.argv[1], [range(1, 9), range(9, 17)])
print(block.ports[0], flush=True)
sys.stdin.read()
"""

# Whose parent gives its block back while the forked process lives, and claims it once more.
FORK = """
import os, sys
from tests.support import own_ports

own_ports.NAME = sys.argv[1]
before = own_ports.own_block().ports[0]
told, tell = os.pipe()
waits, end = os.pipe()
pid = os.fork()
if not pid:
    os.close(end)
    os.write(tell, b"%d" % own_ports.own_block().ports[0])
    os.read(waits, 1)
    os._exit(0)
forked = int(os.read(told, 100))
own_ports._forget_block()
print(before, forked, own_ports.own_block().ports[0])
os.close(end)
os.waitpid(pid, 0)
"""


@contextmanager
def claiming(name: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that has claimed one of two blocks, and the first port of the block."""
    with subprocess.Popen(
        [sys.executable, "-c", CLAIM, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def test_no_two_processes_have_a_block_and_one_that_is_killed_gives_it_back() -> None:
    name = f"fastgw-tests-{os.getpid()}-two"
    both = [range(1, 9), range(9, 17)]
    with claiming(name) as (first, one), claiming(name) as (_, other):
        assert {one, other} == {1, 9}
        with pytest.raises(NoBlockLeft, match=r"^all 2 blocks of ports for tests are in use: "):
            claim_block(name, both)
        first.send_signal(signal.SIGKILL)
        first.wait()
        block = claim_block(name, both)
        assert block.ports[0] == one
        block.release()


def test_a_forked_process_has_a_block_of_its_own_and_keeps_none_of_its_parent() -> None:
    """The parent may end before it, and its block is another process's then."""
    command = [sys.executable, "-c", FORK, f"fastgw-tests-{os.getpid()}-fork"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    before, forked, freed = told.stdout.split()
    assert forked not in (before, freed)
    assert freed == before


def test_the_ports_of_a_block_take_turns() -> None:
    """None is the next one's as well, for as long as there are others."""
    block = claim_block(f"fastgw-tests-{os.getpid()}-turns", [range(1, 9)])
    assert sorted(next(block.next_ports()) for _ in block.ports) == [*block.ports]
    block.release()


def test_a_port_that_somebody_listens_on_is_passed_over() -> None:
    with listen_on_own_port() as listening:
        taken = listening.getsockname()[1]
        (block,) = (each for each in BLOCKS if taken in each)
        assert taken not in {own_port() for _ in block}


def test_blocks_have_no_port_in_common_with_each_other_nor_with_the_ones_that_the_kernel_gives_away() -> None:
    ports = [port for block in BLOCKS for port in block]
    assert len({*ports}) == len(ports)
    least, most = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    if (least, most) == (32_768, 60_999):  # as Linux has it by default
        assert not {*ports} & {*range(least, most + 1)}
    assert all(1024 < port < 65_536 for port in ports)
