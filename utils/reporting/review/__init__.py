"""Pages to look at contours with, and the list of them."""
