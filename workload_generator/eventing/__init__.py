"""Receiver and event logger."""
