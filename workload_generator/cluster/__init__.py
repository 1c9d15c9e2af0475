"""Kubernetes from the operator's side, and what is run there."""
