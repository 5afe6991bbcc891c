"""Command lines, devices, memory, processes."""
