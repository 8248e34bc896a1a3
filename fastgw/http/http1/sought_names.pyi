"""Names of headers that few messages have: whether a head was received with one of several."""

from collections.abc import Iterable
from typing import final

from fastgw.http.messages import Head

@final
class SoughtNames:
    """Lower-case names. `twins`: names that differ in punctuation only are sought with each of them, to be compared by
    those that find them.
    """

    def __init__(self, names: Iterable[bytes], twins: bool = False) -> None: ...
    def occur_in(self, head: Head) -> bool:
        """Whether a head was received with a header of one of the names."""
