"""What `triptych evaluate` measures, a section of the report each. Knows no page."""
