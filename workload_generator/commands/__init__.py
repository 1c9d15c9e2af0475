"""The commands, one module each under its typed name, with `add_flags(parser)` and `run(options)`, the exit code.

`program`, `results_extra` and the modules named `…flags` have what commands share. Only commands print and exit; only
`__main__` and tests call them.
"""
