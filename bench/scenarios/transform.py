"""transform: cost of mapping JSON responses of 1 KiB and 100 KiB."""

from http.client import HTTPException
from pathlib import Path

from bench.load.wrk import Wrk
from bench.origin import documents
from bench.peers import Fastgw
from bench.peers.peer import HOST, Running, without_revision
from bench.prove import NotTheSameWork, client_of, expect
from bench.scenarios.bodies import LOADS
from bench.scenarios.scenario import CPU_US, RATE, SYSTEM_US, USER_US, Comparison, Scenario, Table
from fastgw.http.json_projection import Projection

SELECT = {"allow": ["*.id", "*.name", "*.price"], "rename": {"*.id": "sku"}}
PROJECTION = Projection([("*", "id"), ("*", "name"), ("*", "price")], (), {("*", "id"): "sku"})
UNCHANGED = "fastgw, unchanged"


def _file(name: str, document: str) -> str:
    """Return the name of the file that a contestant's clients expect."""
    return document if without_revision(name) == UNCHANGED else f"mapped-{document}"


def write_documents(folder: Path) -> None:
    documents.write_documents(folder)
    for document, content in documents.DOCUMENTS.items():
        (folder / "documents" / f"mapped-{document}").write_bytes(PROJECTION.apply(content))


def prove(name: str, running: Running) -> None:
    """Raise `NotTheSameWork` unless each document is mapped, or as the origin sends it."""
    client = client_of(running)
    try:
        for document, content in documents.DOCUMENTS.items():
            client.request("GET", f"/svc1/v1/items/7/{document}", headers={"Host": HOST})
            response = client.getresponse()
            body = response.read()
            expect(f"status of {document}", response.status, 200)
            expected = content if without_revision(name) == UNCHANGED else PROJECTION.apply(content)
            expect(f"content of {document}", body, expected)
    except (OSError, HTTPException, ValueError) as error:
        raise NotTheSameWork(f"{name}: {error}") from error
    finally:
        client.close()


def _load(title: str, document: str, connections: int) -> Wrk:
    return Wrk(
        title,
        connections,
        script=LOADS / "documents.lua",
        arguments={"document": document, "coding": "identity"},
        arguments_of={name: {"file": f"@documents/{_file(name, document)}"} for name in ("fastgw", UNCHANGED)},
    )


def _unchanged(name: str) -> str | None:
    return None if name == UNCHANGED else UNCHANGED


def _added(name: str, ours: float, theirs: float) -> float:
    return ours - theirs


COLUMNS = (CPU_US, USER_US, SYSTEM_US, Comparison("CPU us more than unchanged", CPU_US, _unchanged, _added), RATE)

SCENARIO = Scenario(
    name="transform",
    title="JSON responses mapped",
    about=(
        "Documents of JSON of 1 KiB and 100 KiB: three of five members of each element are selected, and one of "
        "them is renamed. `unchanged`: the same documents without the filter. nginx, HAProxy and Envoy have no mapping "
        "without a script."
    ),
    peers=(Fastgw("fastgw", config={"filters": {"transform": {"response": {"json": SELECT}}}}), Fastgw(UNCHANGED)),
    loads=(_load("1 KiB", "1k.json", 64), _load("100 KiB", "100k.json", 16)),
    tables=(Table("1 KiB", COLUMNS), Table("100 KiB", COLUMNS)),
    prove=prove,
    origin=documents.serving,
    prepare=write_documents,
)
