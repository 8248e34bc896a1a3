"""Compiled `serializer_reference`."""

from fastgw.http.http1.serializer_reference import end_to_end as end_to_end
from fastgw.http.http1.serializer_reference import request as request
from fastgw.http.http1.serializer_reference import response as response
from fastgw.http.http1.serializer_reference import whole as whole
