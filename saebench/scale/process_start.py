"""What a process does first: it ends when its parent does, and prints no warnings of libraries.

It is the first module that a fork server imports. The server itself notices the end of its parent
only once it has imported all that workers need, which takes several seconds. A thread that watches
a pipe would do on every system, but a process with threads should not fork. One of xdist's workers
would notice after 5 to 15 seconds.
"""

import ctypes
import signal
import sys
import warnings

PR_SET_PDEATHSIG = 1  # linux/prctl.h; a forked child does not inherit it


def end_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def ignore_warnings_about_code() -> None:
    """Ignore what libraries' developers should change: it changes no number."""
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning):
        warnings.simplefilter("ignore", category)


if any("multiprocessing.forkserver" in word for word in sys.orig_argv):
    end_with_parent()
    ignore_warnings_about_code()
