"""Reason phrases of status codes (RFC 9110 section 15), which HTTP/2 does not have."""

from http import HTTPStatus
from typing import Final

PHRASES: Final = {status.value: status.phrase for status in HTTPStatus} | {
    413: "Content Too Large",  # names of RFC 9110, because older Pythons have those of RFC 7231
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
"""Reason phrase of each status code, independent of the Python version."""
STATUS_LINES: Final = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, phrase.encode("ascii")) for status, phrase in PHRASES.items()
}
"""First line of a response with each of these status codes."""
