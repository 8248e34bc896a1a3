"""Operations of OpenAPI documents: validation of requests and responses, example responses, documentation."""

from fastgw.filters.policies.openapi.document import OpenApiDocument
from fastgw.filters.policies.openapi.operation import OpenApiOperation

__all__ = ["OpenApiDocument", "OpenApiOperation"]
