"""What a task asks of a simulator, and the embedded one."""
