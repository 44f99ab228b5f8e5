"""Stage 1: text to semantic tokens; what is said, and how."""
