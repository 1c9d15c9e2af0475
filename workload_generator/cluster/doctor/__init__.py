"""`kn-bench doctor`: whether a cluster, and this machine, are ready for the benchmark.

`checks` lists all checks; each other module has one of them, or a few that belong together. `commands.doctor` runs
them and prints the results; nothing here changes a cluster, except `source_check` and `broker_check` with `--fix`.
"""
