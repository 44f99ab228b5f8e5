"""What a person types. Sees every other room; no other room sees it."""
