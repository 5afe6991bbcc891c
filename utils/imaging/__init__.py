"""Grids, masks, contours and intensities, in memory."""
