"""Stage 2: semantic tokens to the first codec levels; who says it, and where."""
