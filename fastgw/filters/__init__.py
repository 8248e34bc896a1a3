"""The filters that come with fastgw. Nothing registers itself: this is the list."""

from typing import Final

from fastgw.filters.extensions import FilterTypes
from fastgw.filters.headers import Headers
from fastgw.filters.https_redirect import HttpsRedirect
from fastgw.filters.ip import Ip
from fastgw.filters.request_id import RequestId
from fastgw.filters.security_headers import SecurityHeaders
from fastgw.filters.size import Size

TYPES: Final = FilterTypes((RequestId, HttpsRedirect, Ip, SecurityHeaders, Size, Headers))
"""Filter types by name, in running order."""
