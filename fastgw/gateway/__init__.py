"""Compiler from a configuration to the tables of the workers, and checks that need the compiled routes."""
