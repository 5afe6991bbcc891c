"""FocusNet's networks, from building blocks to the prediction of label maps."""
