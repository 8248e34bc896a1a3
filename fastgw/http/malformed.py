"""Malformed message: a peer sent something that has no meaning, or more than one."""

from typing import final


@final
class Malformed(Exception):
    """A message refused by the rules of HTTP/1.1 (RFC 9110, RFC 9112) or by our stricter reading of them.

    `reason`: a short English sentence without bytes of the peer's, for the log and the problem's detail.
    `status`: what a request is answered with (400, 413, 414, 417, 431, 501 or 505); of a response it means nothing.
    """

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
