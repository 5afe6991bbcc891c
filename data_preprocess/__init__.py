"""Raw data sets to cases, and cases to training tensors."""
