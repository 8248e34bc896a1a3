"""Tiers of a store below its memory, and the store that has both."""
