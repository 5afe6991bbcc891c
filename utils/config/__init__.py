"""The preset of a data set: its organs, grid, networks, losses and schedules."""
