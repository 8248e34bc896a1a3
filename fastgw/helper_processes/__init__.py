"""Helper processes: work that may not run in an event loop, because it takes long or holds the interpreter lock.

A worker starts the processes of its pools itself (`pool`). Each is a new Python program (`child`), so it holds no
memory, descriptor or environment of the gateway. It ends when its worker does.
"""
