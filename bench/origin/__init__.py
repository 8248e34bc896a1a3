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
_LARGE_LOCATION = f"""        location {LARGE} {{
            add_header Cache-Control "public, max-age=3600";
            add_header X-Request-Id $http_x_request_id;
            root @{{folder}};
            try_files /large =404;
        }}
"""


@contextmanager
def serving(folder: Path, core: int) -> Iterator[int]:
    """Run the origin on `core` and yield its port."""
    with _serving(Path(__file__).with_name("nginx.conf"), folder, core) as port:
        yield port


@contextmanager
def serving_public(folder: Path, core: int) -> Iterator[int]:
    """Run an origin whose responses may be stored by a cache, as `serving` does; those below `LARGE` have 1 MiB."""
    lines = Path(__file__).with_name("nginx.conf").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not any(f"add_header {name} " in line for name in ("Vary", "Set-Cookie"))]
    template = folder / "origin.template"
    text = "".join(kept).replace("        location / {", f"{_LARGE_LOCATION}        location / {{")
    template.write_text(text.replace("private, max-age=0, must-revalidate", "public, max-age=3600"))
    (folder / "large").write_bytes(bytes(LARGE_BYTES))
    with _serving(template, folder, core) as port:
        yield port


@contextmanager
def _serving(template: Path, folder: Path, core: int) -> Iterator[int]:
    port = free_port()
    config = render(template, folder / "origin.conf", folder=folder, port=port, body=BODY)
    with pinned(["nginx", "-c", config], [core], folder / "origin.out") as origin:
        wait_until_open(port, origin)
        yield port
