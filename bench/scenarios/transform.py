"""transform: cost of mapping JSON responses of 1 KiB and 100 KiB."""

from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path

from bench.load.wrk import Wrk
from bench.origin import documents
from bench.peers import Fastgw
from bench.peers.peer import HOST, Running, without_revision
from bench.prove import NotTheSameWork, client_of, expect
from bench.scenarios.bodies import LOADS
from bench.scenarios.scenario import CPU_US, RATE, SYSTEM_US, USER_US, Comparison, Scenario, Table
from fastgw.filters.policies.transform.values import IN_HELPER
from fastgw.filters.policies.transform.xml_writing import compile_xml_template
from fastgw.http.json.projection import Projection

SELECT = {"allow": ["*.id", "*.name", "*.price"], "rename": {"*.id": "sku"}}
PROJECTION = Projection([("*", "id"), ("*", "name"), ("*", "price")], (), {("*", "id"): "sku"})
XML = '<products><product each="@" id="{{ id }}"><name>{{ name }}</name><price>{{ price }}</price></product></products>'
MAPPED, TO_XML, UNCHANGED = "fastgw", "fastgw, to XML", "fastgw, unchanged"


def _without_variables(name: str) -> str | None:
    return None


_write_xml = compile_xml_template(XML, IN_HELPER)
EXPECTED: Mapping[str, Callable[[bytes], bytes]] = {
    MAPPED: PROJECTION.apply,
    TO_XML: lambda content: _write_xml(content, _without_variables),
    UNCHANGED: bytes,
}
"""Functions from a document of the origin to the response of each contestant."""


def _file(name: str, document: str) -> str:
    """Return the name of the file that a contestant's clients expect."""
    return f"{without_revision(name)}-{document}".replace(", ", "-").replace(" ", "-")


def write_documents(folder: Path) -> None:
    documents.write_documents(folder)
    for document, content in documents.DOCUMENTS.items():
        for name, change in EXPECTED.items():
            (folder / "documents" / _file(name, document)).write_bytes(change(content))


def prove(name: str, running: Running) -> None:
    """Raise `NotTheSameWork` unless each document is mapped, or as the origin sends it."""
    client = client_of(running)
    try:
        for document, content in documents.DOCUMENTS.items():
            client.request("GET", f"/svc1/v1/items/7/{document}", headers={"Host": HOST})
            response = client.getresponse()
            body = response.read()
            expect(f"status of {document}", response.status, 200)
            expect(f"content of {document}", body, EXPECTED[without_revision(name)](content))
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
        arguments_of={name: {"file": f"@documents/{_file(name, document)}"} for name in EXPECTED},
    )


def _fastgw(name: str, change: object) -> Fastgw:
    return Fastgw(name, config={"filters": {"transform": {"response": change}}})


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
        "them is renamed. `to XML`: the same members become XML by a template, above 16 KiB in a helper process. "
        "`unchanged`: the same documents without the filter. nginx, HAProxy and Envoy have no mapping without a script."
    ),
    peers=(
        _fastgw(MAPPED, {"json": SELECT}),
        _fastgw(TO_XML, {"output": "xml", "xml_template": XML}),
        Fastgw(UNCHANGED),
    ),
    thorough=frozenset({TO_XML}),
    loads=(_load("1 KiB", "1k.json", 64), _load("100 KiB", "100k.json", 16)),
    tables=(Table("1 KiB", COLUMNS), Table("100 KiB", COLUMNS)),
    prove=prove,
    origin=documents.serving,
    prepare=write_documents,
)
