"""Bytes that nobody would think of, read by the gateway and judged by others: h11 and llhttp, wsproto, naive models.

`messages` writes what is nearly HTTP, `mutations` breaks bytes, `comparison` lets h11 and llhttp judge; `routes`,
`records` and `frames` make their own and have them judged by the match order read naively, by a model and by wsproto.
`python -m tests.fuzz` does all of this in a process whose modules are built with AddressSanitizer and
UndefinedBehaviorSanitizer (`sanitized`).

What is found is written to `found/`, one file for each case, and is a test from then on.
"""
