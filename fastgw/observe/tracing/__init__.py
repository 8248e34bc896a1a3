"""Distributed traces: the context that requests carry, the spans of the gateway, and their encodings."""
