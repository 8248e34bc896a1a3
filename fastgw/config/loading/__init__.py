"""Loads a whole configuration from its sources, and writes one back as a document."""
