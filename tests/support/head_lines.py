"""What a head finds in the lines that it was received with, to compare heads that were read in different ways."""

from __future__ import annotations

from fastgw.http.http1.serializer import end_to_end
from fastgw.http.messages import Head


def lines_found(head: Head) -> tuple[dict[bytes, list[bytes]], bytes]:
    """Return the values of each name in the text of a head whose fields were not parsed, and what is forwarded."""
    _, *lines = head.raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    names = [line.partition(b":")[0].lower() for line in lines]
    return {name: head.values(name) for name in names}, end_to_end(head)
