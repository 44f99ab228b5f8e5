"""Waveform to codes and back: EnCodec, DAC or Mimi, and the training of an EnCodec of one's own."""
