"""Python's garbage collector, disabled while a test counts memory or what would be left to it."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

OURS = "fastgw."


@contextmanager
def no_collector() -> Iterator[None]:
    """Collect garbage first, and disable the collector meanwhile.

    What is there before is frozen, and stays so: else each collection of a test walks all that tests import.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def garbage() -> Iterator[list[str]]:
    """List the types of ours of what only the collector finds at the end of the block, of objects made in it."""
    found: list[str] = []
    with no_collector():
        try:
            yield found
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            found += [each.__qualname__ for each in map(type, gc.garbage) if each.__module__.startswith(OURS)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.collect()
