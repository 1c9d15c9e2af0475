"""The Kubernetes API client, for the operator's commands and for the cold-start watcher in a pod.

`client.Kube` makes requests, `reflector.Reflector` keeps a live copy of one kind of objects, and `names` has the names
in the manifests; nothing here knows what the objects are for. Objects are the API's JSON as plain dictionaries, a
failed request raises `errors.ApiError`, and unusable credentials raise `UsageError`.
"""
