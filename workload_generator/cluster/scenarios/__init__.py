"""Scenarios, and a cluster as the platform of one."""
