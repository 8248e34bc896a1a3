"""Origin behind every contestant: nginx that responds to each request with the same kilobyte of JSON."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.ports import free_port, wait_until_open
from bench.processes import pinned
from bench.templates import render

BODY = json.dumps({"items": [{"id": n, "name": f"item {n}", "price": n * 3 + 0.99} for n in range(22)]})
LARGE = "/svc0/large/"
LARGE_BYTES = 1 << 20
PAGE = "/svc0/page/"
PAGE_BYTES = 1 << 16
_FILES = {LARGE: LARGE_BYTES, PAGE: PAGE_BYTES}
"""Size of the responses below some paths."""


def _location(path: str) -> str:
    return f"""        location {path} {{
            add_header Cache-Control "public, max-age=3600";
            add_header X-Request-Id $http_x_request_id;
            root @{{folder}};
            try_files /{_file_of(path)} =404;
        }}
"""


def _file_of(path: str) -> str:
    return path.split("/")[-2]


@contextmanager
def serving(folder: Path, core: int) -> Iterator[int]:
    """Run the origin on `core` and yield its port."""
    with _serving(Path(__file__).with_name("nginx.conf"), folder, core) as port:
        yield port


@contextmanager
def serving_public(folder: Path, core: int) -> Iterator[int]:
    """Run an origin whose responses may be stored by a cache, as `serving` does; those below `LARGE` have 1 MiB, those
    below `PAGE` 64 KiB.
    """
    lines = Path(__file__).with_name("nginx.conf").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not any(f"add_header {name} " in line for name in ("Vary", "Set-Cookie"))]
    template = folder / "origin.template"
    files = "".join(map(_location, _FILES))
    text = "".join(kept).replace("        location / {", f"{files}        location / {{")
    template.write_text(text.replace("private, max-age=0, must-revalidate", "public, max-age=3600"))
    for path, size in _FILES.items():
        (folder / _file_of(path)).write_bytes(bytes(size))
    with _serving(template, folder, core) as port:
        yield port


@contextmanager
def _serving(template: Path, folder: Path, core: int) -> Iterator[int]:
    port = free_port()
    config = render(template, folder / "origin.conf", folder=folder, port=port, body=BODY)
    with pinned(["nginx", "-c", config], [core], folder / "origin.out") as origin:
        wait_until_open(port, origin)
        yield port
