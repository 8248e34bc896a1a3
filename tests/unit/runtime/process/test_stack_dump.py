"""The stack that a hanging process writes: that of its main thread, whatever its other threads do."""

import os
import signal
import subprocess
import sys

from fastgw.runtime.process.stack_dump import request_stack_dump

PROGRAM = """
import threading
from fastgw.runtime.process.stack_dump import register_stack_dump

def nested(depth):
    return depth and nested(depth - 1)

def busy():
    while True:
        nested(20)

def hanging():
    print("ready", flush=True)
    threading.Event().wait()

register_stack_dump()
threading.Thread(target=busy, daemon=True).start()
hanging()
"""


def test_a_stopped_process_continues_and_writes_the_stack_of_its_main_thread():
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            for _ in range(20):
                os.kill(process.pid, signal.SIGSTOP)
                os.waitpid(process.pid, os.WUNTRACED)
                request_stack_dump(process.pid)
                assert process.stderr.readline() == b"Stack (most recent call first):\n"
                stack = [process.stderr.readline()]
                while b"in <module>" not in stack[-1]:  # deeper or not: the first may show `print` without the wait
                    stack.append(process.stderr.readline())
                    assert stack[-1], stack
                assert stack[-2].endswith(b" in hanging\n"), stack
        finally:
            process.kill()  # it may be stopped: the test would wait for it
        assert process.stderr.read() == b""
