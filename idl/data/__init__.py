"""Datasets: readers, the store, splits and loading."""
