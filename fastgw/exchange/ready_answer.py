"""Ready answer: a whole response as bytes, which a filter keeps for plain requests."""

from typing import final


@final
class ReadyAnswer:
    """A response to a plain GET request: `head` without the lines of the connection and the empty line, and `body`.

    `cache_result`: as of `Exchange`. It is the same object for all requests: `head` changes with the time.
    """

    __slots__ = ("body", "cache_result", "head", "length", "status")

    def __init__(self, status: int, cache_result: str, length: int) -> None:
        self.status, self.cache_result, self.length = status, cache_result, length
        self.head = self.body = b""
