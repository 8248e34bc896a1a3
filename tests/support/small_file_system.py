"""A file system that is really full."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path


@contextmanager
def small_file_system(folder: Path) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Make a folder a file system of 4 MiB. Yields a context within which the limit holds. Where nothing may be
    mounted, files may have 32 KiB within it.
    """
    former = resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextmanager
    def short_files() -> Iterator[None]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (32 * 1024, former[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, former)

    @contextmanager
    def little_space() -> Iterator[None]:
        try:
            yield
        finally:
            subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)

    command = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        yield short_files
        return
    try:
        yield little_space
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def full_disk(longest: int = 0) -> Iterator[None]:
    """Let no file of this process get longer within the context than so many bytes. The error is EFBIG; a write across
    the limit is a short one.
    """
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (longest, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
