"""What `pyproject.toml` cannot say: the compiled twins.

Without a compiler they are left out, and fastgw runs in plain Python. FASTGW_PURE_PYTHON leaves them out as well: what
is built with it fits every machine.
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

TWINS = [] if os.environ.get("FASTGW_PURE_PYTHON") else sorted(Path("fastgw").rglob("_*.pyx"))


LIBRARIES = {"fastgw/http/http2/_session.pyx": ("nghttp2", "nghttp2/nghttp2.h")}
"""Libraries of the system that compiled modules stand on, and a header of each. Without it the module is left out."""


COMPILER = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
HAS_COMPILER = shutil.which(COMPILER[0]) is not None


def has_header(header: str) -> bool:
    """Whether the C compiler finds it."""
    command = [*COMPILER, *shlex.split(os.environ.get("CFLAGS", "")), "-E", "-"]
    found = subprocess.run(command, input=f"#include <{header}>\n".encode(), capture_output=True, check=False)
    return found.returncode == 0


for module, (library, header) in LIBRARIES.items():
    if HAS_COMPILER and Path(module) in TWINS and not has_header(header):
        print(f"warning: {module} is not compiled: there is no {header} (lib{library})")
        TWINS.remove(Path(module))


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
    """An installation goes on without the twins. Whoever builds them in place works on them, and has to see why not."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or CORES

    def run(self) -> None:
        optional = self.editable_mode or not self.inplace
        if self.extensions and not HAS_COMPILER:
            if not optional:
                raise SystemExit(f"error: there is no C compiler: {COMPILER[0]}")
            print(f"warning: nothing is compiled: there is no C compiler ({COMPILER[0]})")
            self.extensions = []
        for twin in self.extensions:
            twin.optional = optional
        self.extensions.sort(key=lambda twin: -Path(twin.sources[0]).stat().st_size)  # no large one is the last to end
        self.left, self.announces = len(self.extensions), not optional  # `run` clears `inplace` meanwhile
        super().run()

    def build_extension(self, ext: Extension) -> None:
        """Build one module and, in place, report it: nobody watches a silent terminal for half a minute."""
        super().build_extension(ext)
        self.left -= 1
        if self.announces:
            print(f"      {ext.name} ({self.left} left)", flush=True)


def modules() -> list[Extension]:
    """Return the compiled modules, translated to C where that is of use: not without a compiler, nor for the sources.

    Translating all of them takes longer than everything else in an installation without a compiler.
    """
    found = [
        Extension(
            ".".join(source.with_suffix("").parts),
            [str(source)],
            depends=[str(header) for header in source.parent.glob("_*.h")],
            libraries=[LIBRARIES[str(source)][0]] if str(source) in LIBRARIES else [],
            extra_compile_args=FLAGS,
        )
        for source in TWINS
    ]
    if not HAS_COMPILER or {*sys.argv[1:2]} & {"egg_info", "dist_info", "sdist"}:
        return found
    threads = CORES if len(TWINS) > 1 else 0
    # quiet: errors are told all the same. auto_pickle: nobody pickles what is compiled.
    return cythonize(found, language_level=3, nthreads=threads, quiet=True, compiler_directives={"auto_pickle": False})


if __name__ == "__main__":  # which the processes that Cython begins are not
    gc.disable()  # a third of the translation to C, which makes many objects and drops few
    setup(cmdclass={"build_ext": Build}, ext_modules=modules())
