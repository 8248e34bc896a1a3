"""fastgw and its tests in a folder of their own, with twins that end the process at the first wrong step in memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT = Path(__file__).parents[2]
BUILD_DEADLINE: Final = 600.0
CHECKS: Final = "-fsanitize=address,undefined -fno-sanitize-recover=all"
# -O0: compiled in a quarter of the time, and no wrong step is optimized away. -g1: enough for the lines in reports; who
# needs variables in a debugger compiles with -g. -UNDEBUG: assertions in C hold as well.
FLAGS: Final = f"{CHECKS} -O0 -g1 -fno-omit-frame-pointer -UNDEBUG"


def build(folder: Path) -> dict[str, str]:
    """Build it, and return the environment in which `folder` is to be used, as the working directory.

    Every object has a place of its own in memory there, so that a read behind the end of one is seen.
    """
    # Translated C files and bytecode come along: dates are copied as well, so what is out of date is made again.
    # With sanitizers in the process, Python takes 10 s to compile the modules that a corpus imports.
    made = shutil.ignore_patterns("*.so", "node_modules")
    for name in ("fastgw", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=made)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    flags = {"CFLAGS": FLAGS, "LDFLAGS": CHECKS}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    built = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | flags,
        capture_output=True,
        text=True,
        timeout=BUILD_DEADLINE,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    compiler = os.environ.get("CC", "gcc").split()
    # Extensions of others are in C++: its exceptions have to be known to the sanitizer from the start.
    libraries = [
        subprocess.check_output([*compiler, f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libstdc++.so.6")
    ]
    return os.environ | {
        "LD_PRELOAD": " ".join(libraries),
        # The interpreter frees little at its end. Who allocated is told in short: that is written down each time.
        "ASAN_OPTIONS": "detect_leaks=0:malloc_context_size=3",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }
