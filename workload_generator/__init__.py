"""A benchmark for Knative Serving and Eventing.

Each folder is described in its `__init__`, and all of them in ARCHITECTURE.md. The console scripts start in `__main__`.
"""

__version__ = "0.1.0"
"""The only place of the version: the build reads it here."""
