"""Origin for documents of different sizes: nginx that serves files of JSON, uncompressed."""

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.ports import free_port, wait_until_open
from bench.processes import pinned
from bench.templates import render

WORDS: Final = [
    "lorem",
    "ipsum",
    "dolor",
    "sit",
    "amet",
    "consectetur",
    "adipiscing",
    "elit",
    "sed",
    "do",
    "eiusmod",
    "tempor",
]


def _products(size: int) -> bytes:
    """Return a list of products of about this many bytes, the same in each run."""
    chance = random.Random(42)
    items: list[str] = []
    length = 2
    while length < size:
        item = {
            "id": len(items),
            "name": f"Product {chance.randrange(9999)}",
            "price": round(chance.random() * 100, 2),
            "tags": chance.sample(["red", "green", "blue", "new", "sale", "eco"], 3),
            "description": " ".join(chance.choices(WORDS, k=12)),
        }
        items.append(json.dumps(item))
        length += len(items[-1]) + 2
    return f"[{', '.join(items)}]".encode()


DOCUMENTS: Final[Mapping[str, bytes]] = {"1k.json": _products(1024), "100k.json": _products(100 * 1024)}
"""Documents by the last part of their path."""


def write_documents(folder: Path) -> None:
    (folder / "documents").mkdir(exist_ok=True)
    for name, document in DOCUMENTS.items():
        (folder / "documents" / name).write_bytes(document)


@contextmanager
def serving(folder: Path, core: int) -> Iterator[int]:
    """Run the origin on `core` and yield its port."""
    port = free_port()
    write_documents(folder)
    config = render(Path(__file__).with_name("documents.conf"), folder / "origin.conf", folder=folder, port=port)
    with pinned(["nginx", "-c", config], [core], folder / "origin.out") as origin:
        wait_until_open(port, origin)
        yield port
