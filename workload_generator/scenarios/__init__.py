"""Campaigns of runs: the scenario file, its runner, and the platforms that it runs on."""
