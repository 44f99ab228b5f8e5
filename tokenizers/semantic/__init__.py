"""Semantic tokens: k-means ids of the features of a self-supervised speech encoder. Knows no text but its ids."""
