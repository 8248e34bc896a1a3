"""Compiled `parser_reference`."""

from typing import final

from fastgw.http.http1 import parser_reference as heads
from fastgw.http.http1.parser_reference import body_buffer as body_buffer
from fastgw.http.http1.parser_reference import find_head_end as find_head_end
from fastgw.http.http1.parser_reference import leading_bytes as leading_bytes
from fastgw.http.http1.parser_reference import parse_answer as parse_answer
from fastgw.http.http1.parser_reference import parse_request as parse_request
from fastgw.http.http1.parser_reference import parse_response as parse_response
from fastgw.http.http1.parser_reference import read_http2_request as read_http2_request
from fastgw.http.http1.parser_reference import read_http2_response as read_http2_response
from fastgw.http.http1.parser_reference import read_request as read_request
from fastgw.http.http1.parser_reference import read_response as read_response
from fastgw.http.http1.parser_reference import take_answer as take_answer
from fastgw.http.http1.parser_reference import take_request as take_request

# For type checkers these are types of the reference, although not derived from them.
@final
class Http1RequestHead(heads.Http1RequestHead): ...  # type: ignore[misc] # final, as the twin is

@final
class Http1ResponseHead(heads.Http1ResponseHead): ...  # type: ignore[misc] # final, as the twin is
