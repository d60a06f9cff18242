"""What the machine does: time, memory, and the floor that its registers set."""
