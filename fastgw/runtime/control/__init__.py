"""The control process: admin API, health checks, feeds, revocations, Kubernetes watches, and what it knows of the
node.
"""
