"""Runs a server as long as the process that asked for it lives; `storage.seaweed` starts this file as a program.

    python seaweed_guard.py PARENT GRACE COMMAND…

Stops the command by SIGTERM, and by SIGKILL after GRACE seconds, when it is itself asked to stop or when PARENT is
gone, however that died. If the guard is killed, the kernel kills the command (Linux). Only the standard library is
used.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from types import FrameType

PR_SET_PDEATHSIG = 1
"""prctl(2)."""


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def guard(parent: int, grace: float, command: list[str]) -> int:
    """Returns the exit status of the command."""
    asked_to_stop = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked_to_stop
        asked_to_stop = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The guard has one thread, so running code between fork and exec is safe here.
    process = subprocess.Popen(command, preexec_fn=die_with_parent)
    while process.poll() is None:
        if asked_to_stop or os.getppid() != parent:
            process.terminate()
            try:
                return process.wait(grace)
            except subprocess.TimeoutExpired:
                process.kill()
                return process.wait()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    return process.returncode


if __name__ == "__main__":
    sys.exit(guard(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
