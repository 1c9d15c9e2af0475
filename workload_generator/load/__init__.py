"""The load generator itself: runs in the pod, turns a schedule into requests and their results into a log."""
