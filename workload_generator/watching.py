"""Puts a watcher together for the generator, from what it can find around it."""

from __future__ import annotations

from workload_generator.coldstarts import Watcher
from workload_generator.watch.ledger import Ledger
from workload_generator.watch.local import LocalSource
from workload_generator.watch.watcher import LedgerWatcher


def watcher_of_local(url: str) -> Watcher:
    """Sees the processes of the embedded platform at `url`."""
    ledger = Ledger()
    return LedgerWatcher(LocalSource(url, ledger), ledger)
