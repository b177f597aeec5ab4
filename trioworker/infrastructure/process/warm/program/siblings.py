"""Fork a child that is not ours but our parent's.

A flow run's process is the worker's own child, however it was started: the worker alone waits for it and reaps it,
and loses nothing with the template that it was forked from. Linux can do that, but the C library offers no call for
it, so the bare system call is made, with what the library and Python do around their own `fork`.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import ssl
import sys
from collections.abc import Callable

from .unfit import UnfitError

_CLONE_PARENT = 0x00008000
_CLONE_CHILD_CLEARTID = 0x00200000
_CLONE_CHILD_SETTID = 0x01000000
_FLAGS = _CLONE_PARENT | _CLONE_CHILD_CLEARTID | _CLONE_CHILD_SETTID | signal.SIGCHLD

_PR_GET_TID_ADDRESS = 40

# By machine: the number of the system call, and which of its five arguments is the address of the thread's id.
_CLONE = {"x86_64": (56, 3), "aarch64": (220, 4)}


def sibling_maker() -> Callable[[], int]:
    """What forks as `os.fork` does, but for whose child comes of it.

    Raises:
        UnfitError: it is not to be had here.
    """
    if sys.platform != "linux" or platform.machine() not in _CLONE:
        raise UnfitError(f"{sys.platform} on {platform.machine()} is not known to allow it")
    if ssl.OPENSSL_VERSION_INFO < (3,):
        # Older ones learn of a fork from the C library, and would give all children the same random numbers.
        raise UnfitError(f"{ssl.OPENSSL_VERSION} has to be told of forks")
    _require_pidfd()
    library = ctypes.PyDLL(None, use_errno=True)
    system_call = library.syscall
    system_call.restype = ctypes.c_long
    number, place = _CLONE[platform.machine()]
    arguments = [ctypes.c_void_p(None)] * 5
    arguments[0] = ctypes.c_void_p(_FLAGS)
    arguments[place] = _thread_id_address(library)

    def fork() -> int:
        python = ctypes.pythonapi
        python.PyOS_BeforeFork()
        pid: int = system_call(ctypes.c_long(number), *arguments)
        if pid == 0:
            python.PyOS_AfterFork_Child()
            return 0
        error = ctypes.get_errno()
        python.PyOS_AfterFork_Parent()
        if pid < 0:
            raise OSError(error, os.strerror(error))
        return pid

    return fork


def _require_pidfd() -> None:
    """See to it that processes can be waited for as the children will, which old kernels and some sandboxes forbid.

    Raises:
        UnfitError: they cannot.
    """
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        raise UnfitError(f"a process cannot be waited for by a descriptor here ({error})") from error


def _thread_id_address(library: ctypes.PyDLL) -> ctypes.c_void_p:
    """Where the C library keeps the id of this thread, which in the child the kernel is to set anew.

    Raises:
        UnfitError: it cannot be found.
    """
    address = ctypes.c_void_p()
    known = library.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0) == 0
    if not known or not address.value or ctypes.c_int.from_address(address.value).value != os.getpid():
        raise UnfitError("this kernel and C library do not show where the id of a thread is kept")
    return address
