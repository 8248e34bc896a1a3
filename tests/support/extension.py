"""Packages with filters, installed as by pip, in a folder of Python's path."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

FILTER = '''
from fastgw.filters.api import Env, Exchange, Filter, Hooks, Outcome, Phase


class Greeting(Filter, name="greeting", phase=Phase.TRANSFORM):
    """Greet the upstream."""

    word: str = "hello"
    """What is said."""

    def build(self, env: Env) -> Hooks:
        line = b"X-Greeting: %b\\r\\n" % self.word.encode()

        def request(exchange: Exchange) -> Outcome:
            exchange.request_added += line
            return None

        return Hooks(request=request)
'''


def install(folder: Path, name: str, modules: Mapping[str, str], entry_points: Mapping[str, str] | None = None) -> None:
    """Install a package. `modules`: file names and their texts; `entry_points`: filters and their classes."""
    for file, text in modules.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    told = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (told / "RECORD").write_text("".join(f"{file},,\n" for file in modules))
    if entry_points:
        lines = [f"{filter_name} = {where}\n" for filter_name, where in entry_points.items()]
        (told / "entry_points.txt").write_text("[fastgw.filters]\n" + "".join(lines))


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Add the folder to this process's path within the `with`; its modules are removed afterwards."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield
        for name in set(sys.modules) - before:
            if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]
