"""Receiver and event logger: what came, and when, written down before it is acknowledged. See docs/eventing.md."""
