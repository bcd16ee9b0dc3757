"""The process that works on rows: `python -m tasks.row_process FD`, started and watched by tasks.unit_host.

Requests and answers are pickles over a socket, from the host's own hands only. The worker is built for the first unit,
so that what its models raise reaches the host as itself.
"""

import contextlib
import ctypes
import pickle
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

from tasks.rows import Row, RowWorker, attempt

PR_SET_PDEATHSIG = 1


def serve(connection: Connection) -> None:
    """Answer ("unit", pickled unit) with its rows and ("row", number) with an Outcome, until the host is gone."""
    make_worker = cloudpickle.loads(connection.recv_bytes())
    worker: RowWorker | None = None
    rows: Sequence[Row] = ()
    while True:
        try:
            kind, payload = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            if kind == "unit":
                worker = worker or make_worker()
                rows = worker.rows(cloudpickle.loads(payload))
                answer: tuple[str, Any] = ("rows", rows)
            else:
                assert worker is not None
                answer = ("outcome", attempt(worker, rows[payload]))
        except Exception as error:  # noqa: BLE001 - it is raised again in the host
            answer = ("raised", _portable(error))
        connection.send(answer)


def _portable(error: Exception) -> Exception:
    """The exception itself where it survives pickling, else one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - made a moment ago, here
    except Exception:  # noqa: BLE001 - exceptions of other libraries may fail in any way
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _die_with_host() -> None:
    """Linux: the kernel ends this process with its host, even where the host is killed and this one hangs."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    _die_with_host()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the host's to handle
    serve(Connection(int(sys.argv[1])))
