"""A benchmark for Knative Serving and Eventing."""

__version__ = "0.1.0"
"""The one place that says it: the build reads it here."""
