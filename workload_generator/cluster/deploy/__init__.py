"""Deploys, changes and deletes the benchmark in a cluster, from the manifests of `k8s/`.

`deployment` selects the manifests, `rollout` applies and deletes them, `tuning` changes deployed objects; `pods`
reaches into pods. The commands `deploy`, `delete` and `patch`, the scenarios and the doctor call it.
"""
