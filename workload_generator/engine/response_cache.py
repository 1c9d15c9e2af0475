"""Whole responses that were understood before, by their bytes: the fast parser.

A benchmark's function says the same few things again and again; what differs (the date, an instance's name) changes
rarely beside thousands of requests a second. What the full reader made of some bytes holds for the same bytes, so that
most responses cost one look-up.

Rules:
- only what the full reader took in one piece, from its first byte to its end, is learnt, and only when the connection
  stays good: so the same bytes, read whole, mean the same again. (A response to HEAD means something else: it is
  neither learnt nor looked up.)
- what is not known goes to the full reader from its first byte
- it never grows beyond its limits: when it is full it starts anew
"""

from __future__ import annotations

from workload_generator.engine.http1 import ResponseReader
from workload_generator.log.format import text_of
from workload_generator.log.records import Response

_LONGEST = 4096
_MOST = 1024


def response_of(reader: ResponseReader) -> Response:
    """What `reader` has read, once it is complete."""
    instance = None if reader.instance is None else text_of(reader.instance)
    return Response(reader.status, reader.bytes_read, reader.cold, instance, reader.keep_alive)


class ResponseCache(dict[bytes, Response]):
    """Responses by their bytes."""

    def learn(self, data: bytes, response: Response) -> None:
        """Remember what `data`, read whole by a reader that was at its start, means."""
        if response.keep_alive and len(data) <= _LONGEST:
            if len(self) >= _MOST:
                self.clear()
            self[data] = response
