"""Search for many literals at once."""

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import re2

from fastgw.compiled import twin
from fastgw.config.base.route_patterns import re2_options

_MOST: Final = 16 * 1024 * 1024
"""Maximum size of the compiled form in RE2, in bytes."""


def _literal_search(literals: Iterable[bytes]) -> Callable[[bytes], bool]:
    """Return a function that returns whether a text contains one of some literals, none of which is empty.

    PERF: the compiled one takes 0.25 us for 100 characters, RE2 1.8. RE2 also releases the lock of the interpreter:
    threads of access logs then run, and the event loop waits for them. A request that took 35 us with RE2 takes 25
    (CPython 3.11, micro/policies).
    """
    literals = [*literals]
    if not literals:
        return lambda text: False
    found = re2.compile(b"|".join(map(re.escape, literals)), re2_options(_MOST))
    return lambda text: found.search(text) is not None


if TYPE_CHECKING:
    literal_search = _literal_search
else:
    _twin = twin("fastgw.filters.policies.waf._literal_search")
    literal_search = _literal_search if _twin is None else _twin.literal_search
