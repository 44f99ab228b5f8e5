"""Text to ids and back: phonemes by gruut, or pieces by sentencepiece."""
