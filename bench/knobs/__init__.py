"""Effect of each setting in the tuning guide on this machine: rounds with and without it, and CPU profiles.

Everything runs in its own network namespace, where kernel settings can be changed without affecting the machine.
"""
