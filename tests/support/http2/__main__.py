"""Run the hostile cases against any server: `python -m tests.support.http2 127.0.0.1:8080`.

The server has to support HTTP/2 without TLS, and to answer 200 to any request for `/`. Differences are printed for each
case: either the server is wrong, or the case.
"""

from __future__ import annotations

import sys

from tests.support.http2.case import Case
from tests.support.http2.client import Http2Client
from tests.support.http2.connection_cases import CONNECTION_CASES
from tests.support.http2.control_cases import CONTROL_CASES
from tests.support.http2.flood_cases import FLOOD_CASES
from tests.support.http2.head_cases import HEAD_CASES


def judged(address: str, case: Case, deadline: float = 2.0) -> str | None:
    """Return the reason why the response is not valid; None: it is."""
    try:
        with Http2Client(address, deadline) as client:
            case.run(client)
    except (AssertionError, OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def main(address: str) -> None:
    right = 0
    cases = [*CONNECTION_CASES, *HEAD_CASES, *CONTROL_CASES, *FLOOD_CASES]
    for case in cases:
        wrong = judged(address, case)
        right += wrong is None
        if wrong is not None:
            print(f"{case.name} ({case.section}): {wrong[:300]}", flush=True)
    print(f"{right} of {len(cases)} right")


main(sys.argv[1])
