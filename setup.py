"""What `pyproject.toml` cannot say: the compiled twins. Without a compiler they are left out, and fastgw runs without."""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

TWINS = sorted(Path("fastgw").rglob("_*.pyx"))

setup(
    ext_modules=cythonize(
        [
            Extension(
                ".".join(source.with_suffix("").parts),
                [str(source)],
                depends=[str(header) for header in source.parent.glob("_*.h")],
                extra_compile_args=["-O2", "-fno-strict-aliasing"],
                optional=True,
            )
            for source in TWINS
        ],
        language_level=3,
    )
)
