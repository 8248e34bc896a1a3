"""Loads a configuration from its sources, and writes one as a document."""
