"""A cache of complete responses, by their bytes: the fast path around the parser.

A benchmark's function sends the same few responses again and again; their differences (the date, the name of an
instance) change rarely beside thousands of requests per second. So most responses cost one look-up.

Rules:
- a response is cached when the reader got it in one piece, from its first byte to its last, and its connection can be
  used again: the same bytes then mean the same. Responses to HEAD mean something else: they are neither cached nor
  looked up
- a response that is not cached goes to the reader from its first byte
- the cache is cleared when it is full
"""

from __future__ import annotations

from workload_generator.engine.http1 import ResponseReader
from workload_generator.log.format import text_of
from workload_generator.log.records import Response

_LONGEST = 4096
_MOST = 1024


def response_of(reader: ResponseReader) -> Response:
    """The response in `reader`, once its head is complete."""
    instance = None if reader.instance is None else text_of(reader.instance)
    return Response(reader.status, reader.bytes_read, reader.cold, instance, reader.keep_alive)


class ResponseCache(dict[bytes, Response]):
    """Responses by their bytes."""

    def learn(self, data: bytes, response: Response) -> None:
        """Cache the response that a reader has read from `data` alone."""
        if response.keep_alive and len(data) <= _LONGEST:
            if len(self) >= _MOST:
                self.clear()
            self[data] = response
