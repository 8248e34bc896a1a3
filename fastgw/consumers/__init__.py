"""Consumers: authenticated clients, and an index that finds them by their credentials."""
