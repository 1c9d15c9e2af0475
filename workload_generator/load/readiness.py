"""Which sockets can be read: an epoll of our own, which the event loop watches as one descriptor.

Everything that can be read is read in one go, and only then does a closed loop send again. That is cheaper than to go
from one socket to the next through the event loop, and a server on another core is woken once for many requests instead
of once for each. The stamps do not suffer: the kernel takes them when the bytes come.

Where there is no epoll, the event loop calls the readers itself.
"""

from __future__ import annotations

import asyncio
import select
import sys
from collections.abc import Callable

_MOST = 64  # sockets that are read in one go, so that a deadline of the schedule does not wait for more


class Readiness:
    """Calls the readers of sockets that can be read. `reading` is true meanwhile; `after_reads`, if set, is called once
    they all were."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.reading = False
        self.after_reads: Callable[[], None] | None = None
        self._loop = loop
        self._readers: dict[int, Callable[[], object]] = {}
        if sys.platform.startswith("linux"):
            self._epoll = select.epoll()
            self._poll = self._epoll.poll
            loop.add_reader(self._epoll.fileno(), self._on_ready)

    def watch(self, fd: int, reader: Callable[[], object]) -> None:
        """Call `reader` whenever `fd` can be read, or has ended."""
        if sys.platform.startswith("linux"):
            self._epoll.register(fd, select.EPOLLIN)
        else:
            self._loop.add_reader(fd, reader)
        self._readers[fd] = reader

    def unwatch(self, fd: int) -> None:
        """Call its reader no more; to be told before `fd` is closed. Not an error when nobody watched."""
        if self._readers.pop(fd, None) is None:
            return
        if sys.platform.startswith("linux"):
            self._epoll.unregister(fd)
        else:
            self._loop.remove_reader(fd)

    def close(self) -> None:
        """Watch nothing any more. Can be called again."""
        for fd in list(self._readers):
            self.unwatch(fd)
        if sys.platform.startswith("linux") and not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _on_ready(self) -> None:
        readers = self._readers
        self.reading = True
        try:
            for fd, _events in self._poll(0, _MOST):
                reader = readers.get(fd)
                if reader is not None:  # otherwise an earlier one has closed it
                    reader()
        finally:
            self.reading = False
            if self.after_reads is not None:
                self.after_reads()
