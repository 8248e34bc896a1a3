"""Parser of request and response heads: what they mean, and how the body after them ends (RFC 9112 sections 2 to 6).

An ambiguous head is rejected, not repaired. `parser_reference` is the reference of its compiled
module.
"""

from typing import TYPE_CHECKING

from fastgw.http.http1 import parser_reference
from fastgw.http.http1.parser_reference import Http1RequestHead, Http1ResponseHead

__all__ = [
    "Http1RequestHead",
    "Http1ResponseHead",
    "body_buffer",
    "find_head_end",
    "leading_bytes",
    "parse_answer",
    "parse_request",
    "parse_response",
    "read_http2_request",
    "read_http2_response",
    "take_answer",
    "take_request",
]

if TYPE_CHECKING:
    _implementation = parser_reference
else:
    from fastgw.http.http1 import _parser as _implementation

find_head_end = _implementation.find_head_end
parse_request = _implementation.parse_request
read_http2_request = _implementation.read_http2_request
read_http2_response = _implementation.read_http2_response
parse_response = _implementation.parse_response
parse_answer = _implementation.parse_answer
body_buffer = _implementation.body_buffer
leading_bytes = _implementation.leading_bytes
take_request = _implementation.take_request
take_answer = _implementation.take_answer
