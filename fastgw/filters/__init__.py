"""The filters that come with fastgw. Nothing registers itself: this is the list."""

from typing import Final

from fastgw.filters.extensions import FilterTypes
from fastgw.filters.headers import Headers
from fastgw.filters.request_id import RequestId
from fastgw.filters.size import Size

TYPES: Final = FilterTypes((RequestId, Size, Headers))
"""Filter types by name, in running order."""
