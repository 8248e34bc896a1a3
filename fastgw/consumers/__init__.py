"""Consumers: who they are, and an index that finds them by the credentials they present."""
