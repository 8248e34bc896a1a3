"""The supervisor: children and their slots, hang detection, worker replacement, binary upgrades.

It has no event loop and no threads.
"""
