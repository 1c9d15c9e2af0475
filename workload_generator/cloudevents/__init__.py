"""CloudEvents over HTTP: `encode` for the events that a run sends, `decode` for those that servers receive.

No sockets and no clocks. The generator, the receiver and the embedded platform's brokers use it.
"""
