"""What `top` records of nodes and pods."""
