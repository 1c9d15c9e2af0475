"""The embedded platform (`kn-bench local`): functions as local processes, scaled and routed as Knative does it.

It does not use results or clusters. The commands and scenarios start it as a child process
(`platform_process`); a run only asks `detect` whether it measures this platform.
"""
