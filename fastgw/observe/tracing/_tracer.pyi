from typing import Any, final

@final
class Tracer:
    reference: Any
    def __init__(self, reference: Any) -> None: ...
    def begin_trace(self, head: Any) -> Any: ...
