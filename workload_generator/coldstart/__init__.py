"""Proof of cold starts: a source reports the life of instances, the timeline keeps it, the watcher answers from it.

Sources are the embedded platform and the Kubernetes API. A cold-start run asks the watcher; `run.cold_start` sends the
requests and writes the log.
"""
