"""Waveform to codes and back: EnCodec, and the training of one's own."""
