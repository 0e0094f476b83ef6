"""What a method is and what it is handed: its contract, the task, the run, and what cells share."""
