"""`make fuzz`: hunt for as long as is wanted. The seed is told, and the same seed makes the same cases."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

from tests.fuzz.hunting import Found, hunt, hunt_http2
from tests.fuzz.sanitized import build


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    arguments.add_argument("--seconds", type=float, default=600.0)
    arguments.add_argument("--seed", type=int, default=secrets.randbits(32))
    wanted = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="fastgw-fuzz-") as folder:
        print("building", flush=True)
        environment = build(Path(folder))
        print(f"seed {wanted.seed}, {wanted.seconds:.0f} s", flush=True)
        try:
            print(hunt(Path(folder), environment, wanted.seed, sys.maxsize, wanted.seconds / 2), flush=True)
            print(hunt_http2(Path(folder), environment, wanted.seed, wanted.seconds / 2))
        except Found as found:
            sys.exit(str(found))


main()
