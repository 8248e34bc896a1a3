"""Program that compiles a jq expression, and does nothing else: a trial before a configuration is accepted.

It is apart from the program that evaluates expressions, because it starts in a tenth of the time. In a process of its
own the compiler finds no files, so that `import` and `include` fail, and no `~/.jq`.
"""

from fastgw.helper_processes.program import Work


def start(argument: bytes) -> Work:
    """Compile an expression. Raises `ValueError`, and `ModuleNotFoundError` if there is no jq."""
    import jq

    jq.compile(argument.decode())
    return bytes
