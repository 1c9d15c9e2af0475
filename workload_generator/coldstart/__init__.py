"""Proof of cold starts: sources report what instances do, a timeline keeps it, a watcher answers from it."""
