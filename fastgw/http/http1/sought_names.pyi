"""Headers that few requests have: whether a request has one of several."""

from fastgw.http.messages import RequestHead

def has_any_of(names: tuple[bytes, ...], head: RequestHead) -> bool:
    """Whether a request was received with a header of one of these lower-case names."""
