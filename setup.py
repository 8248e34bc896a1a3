"""What `pyproject.toml` cannot say: the compiled modules, which take a C compiler and libnghttp2.

FASTGW_ONLY_PYTHON leaves them out, for `make`, which compiles them beside pip.
"""

import gc
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

TYPED = [path.with_suffix(".py") for path in Path("fastgw").rglob("*.pxd") if path.with_suffix(".py").exists()]
"""Modules in Python with their C types beside them."""
SOURCES = [] if os.environ.get("FASTGW_ONLY_PYTHON") else sorted([*Path("fastgw").rglob("*.pyx"), *TYPED])
LIBRARIES = {"fastgw/http/http2/_session.pyx": ("nghttp2", "nghttp2/nghttp2.h")}
"""Libraries of the system that compiled modules stand on, and a header of each."""
COMPILER = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def check_means() -> None:
    """End with what is missing to compile the modules, and how to get it."""
    if shutil.which(COMPILER[0]) is None:
        raise SystemExit(f"error: there is no C compiler ({COMPILER[0]}). On Debian: apt-get install gcc libc6-dev")
    for library, header in LIBRARIES.values():
        command = [*COMPILER, *shlex.split(os.environ.get("CFLAGS", "")), "-E", "-"]
        found = subprocess.run(command, input=f"#include <{header}>\n".encode(), capture_output=True, check=False)
        if found.returncode:
            raise SystemExit(f"error: there is no {header}. On Debian: apt-get install lib{library}-dev")


CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

# As everywhere, CFLAGS in the environment says better. -g0: Python's own flags ask for what debuggers need, which takes
# a third of the time and most of the space of a compiled module; the names of functions, for profilers, are kept.
# -w: they ask for warnings as well, about code that nobody wrote. PERF: of what -O2 does beyond -O1, this is what saves
# instructions per request (a GET costs as many as with -O2, 2.6 % less than with -O1 alone); all of it would take gcc
# half as long again (gcc 12).
OPTIMIZED = shlex.split("""
    -O1 -g0 -w -fcaller-saves -fhoist-adjacent-loads -flra-remat -fpeephole2 -fschedule-insns2
    -finline-functions -finline-small-functions -findirect-inlining -fpartial-inlining
    -fipa-bit-cp -fipa-cp -fipa-icf -fipa-ra -fipa-sra -fipa-vrp
""")
FLAGS = ["-fno-strict-aliasing", *([] if os.environ.get("CFLAGS") else OPTIMIZED)]


class Build(build_ext):
    """Compiles on all cores, the largest module first, and says in place what is left to do."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or CORES

    def run(self) -> None:
        if self.extensions:
            check_means()
        self.extensions.sort(key=lambda module: -Path(module.sources[0]).stat().st_size)
        self.left, self.announces = len(self.extensions), self.inplace and not self.editable_mode
        super().run()

    def build_extension(self, ext: Extension) -> None:
        """Build one module and, in place, report it: nobody watches a silent terminal for half a minute."""
        super().build_extension(ext)
        self.left -= 1
        if self.announces:
            print(f"      {ext.name} ({self.left} left)", flush=True)


def modules() -> list[Extension]:
    """Return the compiled modules, translated to C where that is of use: not for the sources."""
    found = [
        Extension(
            ".".join(source.with_suffix("").parts),
            [str(source)],
            depends=[str(header) for header in source.parent.glob("_*.h")],
            libraries=[LIBRARIES[str(source)][0]] if str(source) in LIBRARIES else [],
            extra_compile_args=FLAGS,
        )
        for source in SOURCES
    ]
    if {*sys.argv[1:2]} & {"egg_info", "dist_info", "sdist"}:
        return found
    # quiet: errors are told all the same. auto_pickle: nobody pickles what is compiled. binding: methods of typed
    # classes need not look as those of Python's. PERF: 1 % of a GET (CPython 3.11, micro/exchange).
    typed = [module for module in found if Path(module.sources[0]) in TYPED]
    others = [module for module in found if Path(module.sources[0]) not in TYPED]
    options = {"language_level": 3, "nthreads": CORES if len(SOURCES) > 1 else 0, "quiet": True}
    return [
        *cythonize(others, compiler_directives={"auto_pickle": False}, **options),
        *cythonize(typed, compiler_directives={"auto_pickle": False, "binding": False, "nonecheck": True}, **options),
    ]


if __name__ == "__main__":  # which the processes that Cython begins are not
    gc.disable()  # a third of the translation to C, which makes many objects and drops few
    setup(cmdclass={"build_ext": Build}, ext_modules=modules())
