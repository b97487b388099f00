"""Run a Python module as it would run on the same CPU without Intel AMX. Linux on x86-64.

    python benchmarks/without_amx.py facemark_sdk.cli bench model.onnx --threads 2

A process must ask the kernel for AMX, which refuses while a signal stack is too small for AMX's
registers (arch_prctl(2), ARCH_REQ_XCOMP_PERM); ONNX Runtime then computes without. Processes that
the module starts have AMX again.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import runpy
import sys

_ARCH_PRCTL, _REQUEST, _TILE_DATA = 158, 0x1023, 18
_SMALL = 4096
"""Bytes of the signal stack: enough for a signal, not for AMX's 8 KB."""


class _Stack(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def refuse_amx() -> ctypes.Array[ctypes.c_char]:
    """Let this process have no AMX.

    Returns:
        The signal stack, which must be kept.

    Raises:
        OSError: It has AMX all the same, or this is no Linux on x86-64.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise OSError("needs Linux on x86-64")
    libc = ctypes.CDLL(None, use_errno=True)
    memory = ctypes.create_string_buffer(_SMALL)
    stack = _Stack(ctypes.addressof(memory), 0, _SMALL)
    if libc.sigaltstack(ctypes.byref(stack), None):
        raise OSError(ctypes.get_errno(), "no small signal stack")
    if not libc.syscall(_ARCH_PRCTL, _REQUEST, _TILE_DATA):
        raise OSError(errno.EPERM, "the kernel gives AMX with a small signal stack, too")
    return memory


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(str(__doc__))
    kept = refuse_amx()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
