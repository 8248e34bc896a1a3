"""compress and decompress: content codings of responses and requests."""

from fastgw.filters.policies.content_coding.compress_filter import Compress
from fastgw.filters.policies.content_coding.decompress_filter import Decompress

__all__ = ["Compress", "Decompress"]
