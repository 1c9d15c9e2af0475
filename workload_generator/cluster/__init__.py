"""The benchmark in a cluster, from the operator's side: deployment, checks, runs in pods, usage and Prometheus' data.

The API client is in `kube`, scenarios are in `scenarios`, and the code of a run is in `run`. The commands for clusters
and the scenarios call this folder.
"""
