"""The filters that come with fastgw. Nothing registers itself: this is the list."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from fastgw.filters.api import Filter
from fastgw.filters.headers import Headers
from fastgw.filters.request_id import RequestId
from fastgw.filters.size import Size

TYPES: Final[Mapping[str, type[Filter]]] = MappingProxyType(
    {filter_type.type_name: filter_type for filter_type in (RequestId, Size, Headers)}
)
"""Filter types by name, in running order."""
