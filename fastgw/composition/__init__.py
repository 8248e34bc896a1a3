"""Composition: one response from several requests to upstreams."""
