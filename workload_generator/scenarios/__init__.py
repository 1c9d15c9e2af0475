"""Scenarios: repeated runs over a grid of experiments, on the embedded platform or on a cluster.

`model` is the file and `runner` the order of work; `emulator` and `cluster` are the two platforms; a single run is in
`run` and `cluster.pods`. Only the command `scenario` calls this folder.
"""
