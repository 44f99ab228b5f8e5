"""Triptych: hierarchical speech language models in three panels, semantic, coarse and fine."""

__version__ = "0.1.0"
