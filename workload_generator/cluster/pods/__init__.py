"""Runs and files in the benchmark's pods, by `kubectl exec`.

`agent` runs inside a pod and `sessions` sends requests to it; `pod_run`, `shards` and `logs` are built on those.
The commands `trigger`, `extract-logs` and `scenario` call this folder.
"""
