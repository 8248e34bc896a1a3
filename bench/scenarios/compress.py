"""compress: cost of compressing responses of 1 KiB and 100 KiB."""

import gzip
from collections.abc import Mapping
from http.client import HTTPException

from bench.load.wrk import Wrk
from bench.origin import documents
from bench.peers import Fastgw, Nginx
from bench.peers.peer import HOST, Running, without_revision
from bench.prove import NotTheSameWork, client_of, expect
from bench.scenarios.bodies import LOADS, NGINX
from bench.scenarios.scenario import CPU_US, RATE, SYSTEM_US, USER_US, Comparison, Scenario, Table, ratio_to

GZIP = (
    # As fastgw by default: these types, from 256 bytes on, for clients of HTTP/1.1, `Vary` on all of them.
    "gzip on; gzip_types application/json; gzip_min_length 256; gzip_proxied any; gzip_vary on;"
)
CODINGS: Mapping[str, str] = {
    "fastgw": "gzip",
    "fastgw, zstd": "zstd",
    "fastgw, br": "br",
    "fastgw, uncompressed": "identity",
    "nginx": "gzip",
    "nginx, gzip_comp_level 6": "gzip",
    "nginx, uncompressed": "identity",
}
"""Content coding that the clients of each contestant accept."""


def _uncompressed(name: str) -> str | None:
    plain = f"{name.partition(',')[0]}, uncompressed"
    return None if name == plain else plain


def prove(name: str, running: Running) -> None:
    """Raise `NotTheSameWork` unless each document comes in the coding of this contestant, and is the origin's."""
    coding = CODINGS[without_revision(name)]
    client = client_of(running)
    try:
        for document, content in documents.DOCUMENTS.items():
            fields = {"Host": HOST, "Accept-Encoding": coding}
            client.request("GET", f"/svc1/v1/items/7/{document}", headers=fields)
            response = client.getresponse()
            body = response.read()
            expect(f"status of {document}", response.status, 200)
            expect(f"coding of {document}", response.getheader("Content-Encoding", "identity"), coding)
            if coding in ("gzip", "identity"):
                expect(f"content of {document}", gzip.decompress(body) if coding == "gzip" else body, content)
            if "uncompressed" not in name:
                expect(f"Vary of {document}", response.getheader("Vary"), "Accept-Encoding")
    except (OSError, HTTPException, ValueError) as error:
        raise NotTheSameWork(f"{name}: {error}") from error
    finally:
        client.close()


def _load(title: str, document: str, connections: int) -> Wrk:
    return Wrk(
        title,
        connections,
        script=LOADS / "documents.lua",
        arguments={"document": document, "file": f"@documents/{document}"},
        arguments_of={name: {"coding": coding} for name, coding in CODINGS.items()},
    )


def _fastgw(name: str, **settings: object) -> Fastgw:
    return Fastgw(name, config={"filters": {"compress": settings}})


def _added(name: str, ours: float, theirs: float) -> float:
    return ours - theirs


COLUMNS = (
    CPU_US,
    USER_US,
    SYSTEM_US,
    Comparison("CPU us more than uncompressed", CPU_US, _uncompressed, _added),
    ratio_to("nginx"),
    RATE,
)

SCENARIO = Scenario(
    name="compress",
    title="responses compressed for each client",
    about=(
        "Documents of JSON of 1 KiB and 100 KiB from an origin that does not compress, with the headers of `plain`. "
        "Level and types are each contestant's defaults, with JSON among the types; nginx's level is 1. Responses are "
        "decompressed and compared before the run. `uncompressed`: the same documents without compression."
    ),
    peers=(
        _fastgw("fastgw"),
        _fastgw("fastgw, zstd"),
        _fastgw("fastgw, br"),
        Fastgw("fastgw, uncompressed"),
        Nginx(fill={"server": NGINX["server"] + GZIP}),
        Nginx("nginx, gzip_comp_level 6", fill={"server": NGINX["server"] + GZIP + "gzip_comp_level 6;"}),
        Nginx("nginx, uncompressed", fill=NGINX),
    ),
    thorough=frozenset({"fastgw, br", "nginx, gzip_comp_level 6"}),
    loads=(_load("1 KiB", "1k.json", 64), _load("100 KiB", "100k.json", 16)),
    tables=(Table("1 KiB", COLUMNS), Table("100 KiB", COLUMNS)),
    prove=prove,
    origin=documents.serving,
    prepare=documents.write_documents,
)
