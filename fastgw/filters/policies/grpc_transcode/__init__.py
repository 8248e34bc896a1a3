"""grpc_transcode: JSON over HTTP for services of gRPC, by the `google.api.http` rules of a descriptor set."""

from fastgw.filters.policies.grpc_transcode.filter import GrpcTranscode

__all__ = ["GrpcTranscode"]
