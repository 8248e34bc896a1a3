"""Compiles a configuration into the tables that workers serve by, and checks that need the compiled routes."""
