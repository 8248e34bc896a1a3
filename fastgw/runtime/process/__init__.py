"""What every process needs: signals, its event loop, limits of the machine, transient errors, child processes
within bounds.
"""
