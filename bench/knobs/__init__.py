"""What each knob of `tuning.md` is worth on this machine: rounds with and without, and where a request's time goes.

Everything runs in a network of its own, where settings of the kernel can be turned without touching the machine's.
"""
