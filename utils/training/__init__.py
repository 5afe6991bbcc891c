"""The training loop, what a stage adds to it, and the run folder that it writes."""
