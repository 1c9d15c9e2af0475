"""The HTTP engine on raw sockets: connections, HTTP/1.1, timers, and the kernel's receive time stamps.

It sends arrivals and reports results; it has no schedule, no experiment and no log. A run uses `engine.Engine`; the
first byte of a response is stamped in `timestamps`.
"""
