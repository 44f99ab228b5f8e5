"""Stage 3: coarse codes to the remaining levels; the last detail of the sound."""
