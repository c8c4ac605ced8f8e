"""A server process whose parent is gone ends too: nobody could stop it, restart it, or take its port."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

from azeotrope.gateway.logs import log

EVERY = 1.0  # seconds between looks
PARENT = "AZEOTROPE_PARENT"  # its process id, for children that it is gone before they look


def leave_with_parent(drain: float) -> None:
    """From now on, end as on SIGTERM once the parent is gone, and at once if that takes longer than `drain`.

    A pipe to the parent would not do: processes forked later hold its other end too.
    """
    parent = int(os.environ.get(PARENT, os.getppid()))
    threading.Thread(target=_watch, args=(lambda: os.getppid() == parent, drain), daemon=True).start()


def _watch(has_parent: Callable[[], bool], drain: float) -> None:
    while has_parent():
        time.sleep(EVERY)
    log.warning("the parent process is gone, so this one ends too")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(drain)
    os._exit(1)
