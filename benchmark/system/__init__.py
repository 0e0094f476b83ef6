"""What the program stands on: the machine, files, folders, locks, checkpoints and errors. It knows no data set."""
