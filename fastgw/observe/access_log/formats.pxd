# `formats.py` is compiled: it needs no types of its own.
