"""validate: cost of checking JSON bodies of 1 KB and 100 KB against a schema, accepted and refused."""

import random
import zlib
from pathlib import Path

import msgspec

from bench.load.wrk import Wrk
from bench.micro.validation import ITEM, LINE, ORDER
from bench.origin import streams
from bench.peers import Fastgw
from bench.peers.peer import without_revision
from bench.scenarios.bodies import LOADS
from bench.scenarios.scenario import CPU_US, RATE, SYSTEM_US, USER_US, Comparison, Scenario, Table
from fastgw.errors import Fault
from fastgw.exchange.reply import extended, problem
from fastgw.filters.policies.content.schemas import compile_schema, errors_of

ACCEPTED, REFUSED, UNCHECKED = "fastgw", "fastgw, refused", "fastgw, unchecked"
STRICT = {**ORDER, "properties": {"lines": {"type": "array", "items": {**ITEM, "required": ["sku", "n", "weight"]}}}}
"""Schema that no element of the orders conforms to."""
LINES = {"1 KB": 8, "100 KB": 800}
_BODIES = 16


def _orders(lines: int) -> list[bytes]:
    """Return different orders of the same length, the same in each run."""
    chance = random.Random(42)
    return [
        msgspec.json.encode({"lines": [{**LINE, "sku": f"ab{chance.randrange(1000, 9999)}"} for _ in range(lines)]})
        for _ in range(_BODIES)
    ]


def write_orders(folder: Path) -> None:
    validator = compile_schema(STRICT)
    for name, lines in LINES.items():
        file = name.replace(" ", "")
        orders = _orders(lines)
        (folder / f"orders-{file}").write_bytes(b"".join(orders))
        answers = [streams.summed_up(len(order), zlib.crc32(order)) for order in orders]
        (folder / f"accepted-{file}").write_text("".join(f"{each}\n" for each in answers))
        refusals = []
        for order in orders:
            errors = errors_of(validator, msgspec.json.decode(order), "body", len(order))
            body = extended(problem(Fault.VALIDATION_FAILED), {"errors": errors}).body
            assert isinstance(body, bytes)
            refusals.append(body + b"\n")
        (folder / f"refused-{file}").write_bytes(b"".join(refusals))


def _load(name: str, lines: int, connections: int) -> Wrk:
    file, size = name.replace(" ", ""), len(_orders(lines)[0])
    shared: dict[str, str | int] = {"bodies": f"@orders-{file}", "size": size, "type": "application/json", "count": 256}
    accepted: dict[str, str | int] = {"answers": f"@accepted-{file}"}
    refused: dict[str, str | int] = {"answers": f"@refused-{file}", "status": 400}
    answers = {ACCEPTED: accepted, UNCHECKED: accepted, REFUSED: refused}
    return Wrk(name, connections, script=LOADS / "post.lua", arguments=shared, arguments_of=answers)


def _unchecked(name: str) -> str | None:
    return None if without_revision(name) == UNCHECKED else UNCHECKED


def _peer(name: str, schema: object) -> Fastgw:
    inline = {"body": {"inline": schema}}
    return Fastgw(name, config={"filters": {"validate": inline}})


COLUMNS = (
    CPU_US,
    USER_US,
    SYSTEM_US,
    Comparison("CPU us more than unchecked", CPU_US, _unchecked, lambda name, ours, theirs: ours - theirs),
    RATE,
)

SCENARIO = Scenario(
    name="validate",
    title="JSON bodies checked",
    about=(
        "POST requests with orders of 1 KB and 100 KB, which the origin answers with the CRC-32 of the body. `fastgw`: "
        "all conform to a schema with patterns, bounds and required members. `refused`: no element has a member that "
        "is required, so all are answered 400 with the errors, and none reaches the origin."
    ),
    peers=(_peer(ACCEPTED, ORDER), _peer(REFUSED, STRICT), Fastgw(UNCHECKED)),
    loads=(_load("1 KB", LINES["1 KB"], 64), _load("100 KB", LINES["100 KB"], 16)),
    tables=(Table("1 KB", COLUMNS), Table("100 KB", COLUMNS)),
    prove=lambda name, running: None,  # the load compares each response: the checksum of its body, or its errors
    origin=streams.serving,
    prepare=write_orders,
)
