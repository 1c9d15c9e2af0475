"""The Kubernetes API client, for the operator's commands and for the cold-start watcher in a pod.

`client.Kube` makes requests; `reflector.Reflector` keeps a live copy of one kind of objects; `names` has the names that
are part of the manifests. Objects are the API's JSON as plain dictionaries. A failed request raises `errors.ApiError`,
unusable credentials raise `UsageError`. Nothing here knows what the objects are for.
"""
