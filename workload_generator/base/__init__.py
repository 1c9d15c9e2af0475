"""The foundation of all folders: clocks, errors, exit codes, histograms, the verdict, child processes, streams.

It imports nothing else of the package, and every module may use it.
"""
