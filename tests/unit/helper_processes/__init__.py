"""Tests of helper processes."""
