"""Which prepared cases and contours a person should look at before training."""
