"""What is measured, and what measures it, put into a cluster, changed and removed."""
