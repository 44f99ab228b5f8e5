"""Distances to an ear: frames are those of torch.stft, and what sounds nearer is nearer."""

import torch

from triptych.tokenizers.acoustic.mel import SoundDistance, overlapping

torch.set_num_threads(1)


def test_frames_and_their_gradients_are_those_of_stft():
    for samples, window in ((4800, 256), (5000, 128), (4799, 1024)):
        waveform = torch.randn(2, samples, requires_grad=True)
        hann = torch.hann_window(window)
        ours = torch.fft.rfft(overlapping(waveform, window) * hann).abs()
        theirs = torch.stft(waveform, window, window // 4, window=hann, return_complex=True).abs().transpose(1, 2)
        assert torch.allclose(ours, theirs, atol=1e-4)
        a, b = (torch.autograd.grad(one.sum(), waveform)[0] for one in (ours, theirs))
        assert torch.allclose(a, b, atol=1e-3)


def test_a_nearer_sound_is_nearer():
    torch.manual_seed(0)
    distance = SoundDistance(24_000, (256, 1024), 1.0)
    given, noise = torch.randn(2, 4800) * 0.07, torch.randn(2, 4800) * 0.07
    near, far = (distance(given + amount * noise, given)[0].item() for amount in (0.1, 0.5))
    assert distance(given, given)[0].item() == 0.0 and 0 < near < far
