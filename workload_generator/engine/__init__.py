"""HTTP on our own sockets: connections, HTTP/1.1, timers, the kernel's time stamps. It knows nothing of experiments."""
