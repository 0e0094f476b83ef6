"""The foundation of the program: the machine, files, folders, locks, checkpoints and errors. It knows no data set."""
