"""A training as a process: its start, signals, child processes and exit codes."""
