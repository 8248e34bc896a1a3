"""Judge cases until one makes a difference, time is up or there were enough. Run by `tests.fuzz.hunting`.

The case under way is in the file that is named last, also when the process ends in the middle of it.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from itertools import islice

from tests.fuzz.cases import cases
from tests.fuzz.comparison import Difference


def main(seed: int, most: int, seconds: float, under_way: str) -> None:
    until = time.monotonic() + seconds
    judged, accepted = Counter[str](), Counter[str]()
    file = os.open(under_way, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for case in islice(cases(seed), most):
        if time.monotonic() > until:
            break
        os.ftruncate(file, 0)
        os.pwrite(file, case.text, 0)
        judged[case.kind] += 1
        try:
            accepted[case.kind] += case.judge()
        except Difference:
            smallest = case.smallest()
            os.ftruncate(file, 0)
            os.pwrite(file, smallest.text, 0)
            smallest.judge()
    os.close(file)
    print(", ".join(f"{count} of {kind} ({accepted[kind]} accepted)" for kind, count in judged.items()))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
