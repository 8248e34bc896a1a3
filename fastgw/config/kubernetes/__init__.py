"""Kubernetes provider: objects of a cluster become listeners, routes and upstreams. Pure: no I/O."""
