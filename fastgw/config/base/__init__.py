"""Types that every part of the configuration uses: durations, sizes, addresses, route patterns, and problems with
their places.

It imports nothing of the other parts.
"""
