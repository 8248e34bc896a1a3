"""Malformed message: a peer sent something invalid or ambiguous."""

from typing import final


@final
class Malformed(Exception):
    """A message refused by the rules of HTTP/1.1 (RFC 9110, RFC 9112) or by our stricter interpretation of them.

    `reason`: a short English sentence without bytes of the peer, for the log and the problem's detail.
    `status`: the status with which a request is answered (400, 413, 414, 417, 431, 501 or 505); unused for a response.
    """

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
