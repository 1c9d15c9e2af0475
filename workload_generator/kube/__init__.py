"""The Kubernetes API, for the operator's commands and for what watches a cluster from inside a pod.

`client.Kube` asks and changes; `reflector.Reflector` keeps a live copy of a kind of objects. Objects are the API's own
JSON, as plain dictionaries. Every fault is an `errors.ApiError`, or a `UsageError` when there is no cluster to talk to.
"""
