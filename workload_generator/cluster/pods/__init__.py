"""Runs and logs in pods, reached by `kubectl exec`."""
