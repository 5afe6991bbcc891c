"""How people rate contours, and the columns of the file that a review page saves."""

COLUMNS = ("case", "organ", "rating", "comment", "rater", "date")
SCALE = {1: "unusable", 2: "major edits", 3: "minor edits needed", 4: "stylistic edits only", 5: "use as is"}
"""As Baroudi et al., Diagnostics 13(4) (2023) 667, describe it."""
