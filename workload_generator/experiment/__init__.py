"""What to send: the experiment file, its fields, and the schedule that follows from it. Nothing here sends."""
