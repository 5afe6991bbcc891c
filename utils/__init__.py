"""Everything that knows nothing about FocusNet's data, networks or losses."""
