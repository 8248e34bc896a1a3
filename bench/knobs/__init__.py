"""What each knob of the guide to tuning is worth on this machine: rounds with and without, and where the time goes.

Everything runs in a network of its own, where settings of the kernel can be turned without touching the machine's.
"""
