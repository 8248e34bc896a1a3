"""Bytes that nobody would think of, judged by both: references in plain Python, which are right, and compiled modules.

`messages` writes what is nearly HTTP, `mutations` breaks bytes, `routes`, `records` and `frames` make what those take;
`sides` has both, `comparison` lets both judge. `python -m tests.fuzz` does all of this in a
process whose modules are built with AddressSanitizer and UndefinedBehaviorSanitizer (`sanitized`). `records` are
judged by a model, `frames` by wsproto.

What is found is written to `found/`, one file for each case, and is a test from then on.
"""
