"""PEM files for OpenSSL, which takes a key from a named file only."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def as_file(contents: bytes) -> Iterator[str]:
    """A name under which these bytes are read within the `with`; they are in memory, and never on a disk."""
    with open(os.memfd_create("pem"), "wb") as file:
        file.write(contents)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"
