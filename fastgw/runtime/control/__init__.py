"""The control process: admin API, health checks, feeds, revocations, Kubernetes watches, and its view of the node."""
