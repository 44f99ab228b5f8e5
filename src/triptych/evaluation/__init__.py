"""What a listener would say, in numbers. Knows the cascade's outputs, not how they were made."""
