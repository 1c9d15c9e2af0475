"""What `doctor` looks at: a module a check or a few."""
