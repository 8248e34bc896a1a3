"""Readers of YAML, TOML and JSON that keep the source position of every value."""
