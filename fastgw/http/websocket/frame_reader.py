"""The reader of frames that is used: the compiled one, or its reference in `frames`."""

from typing import TYPE_CHECKING

from fastgw.http.websocket import frames

if TYPE_CHECKING:
    FrameReader = frames.FrameReader
else:
    from fastgw.http.websocket._frames import FrameReader

NotingFrameReader = frames.FrameReader
"""The reader with `notes`, which the compiled one has not."""

__all__ = ["FrameReader", "NotingFrameReader"]
