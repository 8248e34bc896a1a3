"""Types that every part of the configuration uses: durations, sizes, addresses, route patterns, and problems with their
positions.

Imports nothing of the other parts.
"""
