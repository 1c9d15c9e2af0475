"""`kn-bench doctor`: whether a cluster, and this machine, are ready for the benchmark.

`checks` lists the checks; each other module has one of them, or a few that belong together. `commands.doctor` prints
the results. Nothing here changes a cluster, except `source_check` with `--fix`.
"""
