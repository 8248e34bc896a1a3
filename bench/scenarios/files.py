"""files: static files of 1 KiB and 1 MiB, which the contestants keep open."""

import http.client
import os
import random
from pathlib import Path

from bench.load.wrk import Wrk
from bench.peers import Fastgw, Nginx
from bench.peers.peer import HERE, HOST, Running
from bench.prove import NotTheSameWork, client_of, expect
from bench.scenarios.bodies import LOADS, PER_GIB
from bench.scenarios.scenario import (
    CORE_USED,
    CPU_PER_GIB,
    CPU_US,
    P50,
    P99,
    RATE,
    SYSTEM_US,
    USER_US,
    Kind,
    Picture,
    Scenario,
    Table,
    ratio_to,
)

SMALL, LARGE = 1 << 10, 1 << 20
FILES = {SMALL: 100, LARGE: 8}
"""Number of files of each size. Precompressed siblings: none."""
CHANGED = 1_700_000_000
"""When the files were changed, in epoch seconds: long ago, as a file that has just been has no `Last-Modified`."""


def write_files(folder: Path) -> None:
    """Write `files/SIZE/NUMBER`, and the pattern that they are cut from."""
    pattern = random.Random(42).randbytes(LARGE * FILES[LARGE])
    (folder / "pattern").write_bytes(pattern)
    for size, count in FILES.items():
        below = folder / "files" / str(size)
        below.mkdir(parents=True)
        for number in range(count):
            file = below / str(number)
            file.write_bytes(pattern[number * size : (number + 1) * size])
            os.utime(file, (CHANGED, CHANGED))


def prove_files(name: str, running: Running) -> None:
    """Raise `NotTheSameWork` unless files have validators, conditions and ranges are considered, and nothing else is
    served.
    """
    client = client_of(running)

    def get(path: str, **fields: str) -> http.client.HTTPResponse:
        sent = {
            "Host": HOST,
            "X-Request-Id": "one",
            **{name.replace("_", "-"): value for name, value in fields.items()},
        }
        client.request("GET", path, headers=sent)
        return client.getresponse()

    try:
        response = get(f"/{SMALL}/7")
        etag = response.getheader("ETag")
        expect("length of a file", len(response.read()), SMALL)
        expect("X-Request-Id", response.getheader("X-Request-Id"), "one")
        expect("validators", bool(etag and response.getheader("Last-Modified")), True)
        for path, fields, status in (
            (f"/{SMALL}/7", {"If_None_Match": etag or ""}, 304),
            (f"/{LARGE}/7", {"Range": "bytes=0-9"}, 206),
            (f"/{SMALL}/none", {}, 404),
        ):
            response = get(path, **fields)
            response.read()
            expect(f"status of {path} with {fields}", response.status, status)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotTheSameWork(f"{name}: {error}") from error
    finally:
        client.close()


def wrk(name: str, connections: int, size: int) -> Wrk:
    arguments: dict[str, str | int] = {"pattern": "@pattern", "size": size, "files": FILES[size]}
    return Wrk(name, connections, script=LOADS / "files.lua", arguments=arguments, body_bytes=size)


ROUTES = {"routes": [{"name": "site", "paths": ["/*"], "files": {"root": "../files"}}]}

SCENARIO = Scenario(
    name="files",
    title="static files",
    about=(
        "100 files of 1 KiB on 64 connections, then 8 files of 1 MiB on 16. Requests are those of `plain`, each with "
        "an `If-None-Match` that does not match. Each contestant keeps files open and looks at the disk once a second; "
        "a JSON access log. nginx sends with sendfile."
    ),
    peers=(
        Fastgw(routes=1, config=ROUTES),
        Nginx(template=HERE / "nginx-files.conf"),
    ),
    loads=(wrk("1 KiB", 64, SMALL), wrk("1 MiB", 16, LARGE)),
    tables=(
        Table("1 KiB", (CPU_US, USER_US, SYSTEM_US, ratio_to("nginx"), RATE, CORE_USED, P50, P99)),
        Table("1 MiB", PER_GIB),
    ),
    prove=prove_files,
    prepare=write_files,
    pictures=(
        Picture(Kind.BARS, "1 KiB", "CPU per request for a file of 1 KiB"),
        Picture(Kind.BARS, "1 MiB", "CPU seconds per GiB of files of 1 MiB", CPU_PER_GIB),
    ),
)
