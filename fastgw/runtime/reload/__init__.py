"""Reloads: load, check and propose a configuration, commit it in two phases, isolate bad files, keep generations
for rollback.
"""
