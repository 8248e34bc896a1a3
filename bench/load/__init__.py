"""Loads, and the results that each kind reports."""
