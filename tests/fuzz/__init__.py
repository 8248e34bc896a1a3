"""Bytes that nobody would think of, judged by both: the plain Python of fastgw, which is right, and its compiled twins.

`messages` writes what is nearly HTTP, `mutations` breaks bytes, `routes`, `records` and `frames` make what those take;
`sides` has fastgw twice in one process, `comparison` lets both judge. `python -m tests.fuzz` does all of this in a
process whose twins are built with AddressSanitizer and UndefinedBehaviorSanitizer (`sanitized`).

What is found is written to `found/`, one file for each case, and is a test from then on.
"""
