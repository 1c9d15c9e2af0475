"""One run of `workload-generator`: it follows the schedule, watches the machine, and ends with a summary and a verdict.

`setup` makes the plan from the flags, `execute` runs it, `runner` is the run, `signals` says what a SIGTERM does to it.
Only commands use this folder; runs on a cluster are in `scenarios` and `cluster.pods`.
"""
