"""`kn-bench top`: records the usage of nodes and pods, and the changes of functions, while benchmarks run.

`recording.Top` is one recording: `polling` and `watching` read the cluster, `usage` and `states` turn what they read
into rows of `base.usage_tables`, `row_recorder` and `storage` store them. `commands.top` starts it and shows `screen`.
"""
