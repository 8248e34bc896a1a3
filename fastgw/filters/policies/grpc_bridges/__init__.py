"""Bridges from browser protocols to gRPC: the filters `grpc_web` and `connect_rpc`."""

from fastgw.filters.policies.grpc_bridges.connect_filter import ConnectRpc
from fastgw.filters.policies.grpc_bridges.web_filter import GrpcWeb

__all__ = ["ConnectRpc", "GrpcWeb"]
