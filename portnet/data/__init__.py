"""Datasets: checks, labels, and rows held out for validation."""
