"""The training loop and what it writes. Ground floor: knows tensors, steps and files, nothing of speech."""
