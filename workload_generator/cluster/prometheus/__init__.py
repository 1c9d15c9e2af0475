"""`kn-bench prometheus snapshot`: a snapshot of the data of a cluster's Prometheus, copied to this machine.

`snapshot` finds the server and takes the snapshot, `streams` reaches its pod through kubectl, `tsdb` checks the copy.
`commands.prometheus` starts it, and serves the copy.
"""
