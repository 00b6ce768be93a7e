"""Data: checks, labels, datasets, and the split into training and validation sets."""
