"""Refuses every connection of a Python process but those to this machine, and writes down who tried what.

On PYTHONPATH, Python imports it before anything else, in every process that inherits the environment. Standard library only.
"""

import errno
import os
import socket
import sys

_LOG = os.environ.get("INSTAFACE_OUTSIDE_LOG")
_HERE = {"localhost", "localhost.localdomain", "", socket.gethostname()}


def _is_here(host: object) -> bool:
    if host is None or not isinstance(host, str | bytes):
        return True
    name = host.decode() if isinstance(host, bytes) else host
    mine = name in _HERE or name.startswith(socket.gethostname() + ".")
    return mine or name in ("0.0.0.0", "::", "::1") or name.startswith(("127.", "::ffff:127."))


def _note(what: str, target: object) -> None:
    with open(str(_LOG), "a") as file:  # noqa: PTH123 - nothing may be imported here that is not needed
        file.write(f"{what} {target} by {os.getpid()} {' '.join(sys.orig_argv[:6])}\n")


def _guarded(name: str):  # type: ignore[no-untyped-def]
    original = getattr(socket.socket, name)

    def guarded(self, address, *rest):  # type: ignore[no-untyped-def]
        outside = self.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0])
        # Connecting a datagram socket sends nothing: so Ray asks the kernel for the address of this machine.
        if not outside or self.type == socket.SOCK_DGRAM:
            return original(self, address, *rest)
        _note(name, address)
        raise OSError(errno.ENETUNREACH, f"outside of this machine: {address}")

    return guarded


def _named(name: str):  # type: ignore[no-untyped-def]
    original = getattr(socket, name)

    def guarded(host, *rest, **named):  # type: ignore[no-untyped-def]
        literal = isinstance(host, str) and host.replace(".", "").isdigit()
        if not _is_here(host) and not literal:
            _note(name, host)
            raise socket.gaierror(socket.EAI_NONAME, f"outside of this machine: {host}")
        return original(host, *rest, **named)

    return guarded


if _LOG:
    for _method in ("connect", "connect_ex"):
        setattr(socket.socket, _method, _guarded(_method))
    for _function in ("getaddrinfo", "gethostbyname"):
        setattr(socket, _function, _named(_function))
