"""One run in the pod: it sends what the schedule says, watches the machine, and ends with a summary and a verdict."""
