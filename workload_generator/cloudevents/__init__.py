"""CloudEvents over HTTP: `encode` makes the requests of a run, `decode` reads those of receivers and brokers.

Bytes only: no sockets and no clocks."""
