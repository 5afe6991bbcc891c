"""FocusNet's networks, from the building blocks to the prediction of a label map."""
