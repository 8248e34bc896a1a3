"""Instructions per call of every microbenchmark, counted by valgrind: independent of the load of the machine."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE
from tempfile import TemporaryDirectory

from bench.check.counted import CALLS, ROUNDS

MARKS_PER_ROOM = 2 * 2 * ROUNDS
ROOT = Path(__file__).parents[2]
TOTAL = re.compile(r"^totals: (\d+)", re.MULTILINE)

Counts = dict[str, int]
"""Instructions per call by microbenchmark."""


class CannotCount(Exception):
    """No counts are available. The text has the reason, in one line."""


def count(names: Sequence[str]) -> Counts:
    """Return the counts of the microbenchmarks in these modules of `bench.micro`."""
    if shutil.which("valgrind") is None:
        raise CannotCount("valgrind is not installed")
    with TemporaryDirectory() as folder:
        # glibc has one function under both names; valgrind may use either.
        command = ["valgrind", "--tool=callgrind", "--dump-before=getpgid", "--dump-before=__getpgid"]
        command += [f"--callgrind-out-file={folder}/counts", sys.executable, "-m", "bench.check.counted", *names]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        told, said = [], Path(folder, "said")
        with (
            said.open("w") as stderr,
            subprocess.Popen(command, cwd=ROOT, env=environment, stdout=PIPE, stderr=stderr, text=True) as counting,
        ):
            assert counting.stdout is not None
            for line in counting.stdout:
                told.append(json.loads(line))
                if room := told[-1].get("room"):
                    print(f"counted: {told[-1]['module']}: {room.strip()}", file=sys.stderr, flush=True)
        if counting.returncode:
            raise CannotCount(f"counting ended with {counting.returncode}:\n{said.read_text()[-3000:]}")
        keys = room_keys([(each["module"], each["room"]) for each in told])
        return per_call(
            keys, [_total(Path(folder, f"counts.{number + 1}")) for number in range(MARKS_PER_ROOM * len(keys))]
        )


def room_keys(rooms: Sequence[tuple[str, str]]) -> list[str]:
    """Return the keys `module: room`, or `module: room: part`; each once. Raises `CannotCount`."""
    keys: list[str] = []
    whole = ""
    for module, name in rooms:
        if not name.startswith(" "):
            whole = name
        key = f"{module}: {whole}" if name == whole else f"{module}: {whole}: {name.strip()}"
        if key in keys:
            raise CannotCount(f"two rooms have the name {key!r}")
        keys.append(key)
    return keys


def per_call(keys: Sequence[str], totals: Sequence[int]) -> Counts:
    """Return the instructions per call. `totals`: counts between consecutive marks, `MARKS_PER_ROOM` for each key."""
    counts: Counts = {}
    for number, key in enumerate(keys):
        runs = totals[number * MARKS_PER_ROOM :][1:MARKS_PER_ROOM:2]
        counts[key] = round((min(runs[1::2]) - min(runs[::2])) / CALLS)
    return counts


def _total(dump: Path) -> int:
    try:
        found = TOTAL.search(dump.read_text())
    except FileNotFoundError as error:
        raise CannotCount("valgrind has not seen all marks; does its C library have getpgid?") from error
    assert found is not None
    return int(found[1])
