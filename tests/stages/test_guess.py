"""What the coarse stage takes true frames for: one pass is what frame by frame would be."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from triptych.cli.main import main
from triptych.lm.sampling import Sampling
from triptych.stages.coarse.generate import generate_coarse
from triptych.stages.coarse.guess import GuessConfig, guess, guess_all, guessing, saying
from triptych.stages.coarse.sequence import CoarseConfig, CoarseStage
from triptych.stages.span import PromptConfig, Span
from triptych.tokenizers.acoustic.guesses import Guesses

STARTER = Path(__file__).parents[2] / "src" / "triptych" / "starter"


@pytest.fixture
def stage(specs, shape) -> CoarseStage:
    return CoarseStage(
        CoarseConfig(levels=3, transformer=shape, prompt=PromptConfig(seconds=(0.1, 0.2), max_seconds=0.5)), specs
    )


def test_one_pass_is_frame_by_frame(stage, speech) -> None:
    """Greedy: each level the likeliest given true frames before, and what was chosen under it in this frame."""
    torch.manual_seed(0)
    model = stage.model().eval()
    clip = speech.clip(1, 2, 10)
    found = guess(stage, model, clip, Sampling(temperature=0.0), torch.Generator())
    codes = torch.from_numpy(clip.codes[:3].astype(np.int64))[None]
    with torch.no_grad():
        condition = model.encode(torch.from_numpy(clip.semantic.astype(np.int64))[None])
        for frame in range(codes.shape[2]):
            before = torch.cat([model.start[None, None], model.embed(codes[:, :, :frame])], dim=1)
            hidden = model.step(before, condition[:, : frame + 1], torch.zeros(1, frame + 1, dtype=torch.long))[0, -1]
            chosen: list[int] = []
            for q in range(3):
                below = torch.tensor([*chosen, *[0] * (3 - len(chosen))])
                chosen.append(int(model.logits(q, hidden, below).argmax()))
            assert found[:, frame].tolist() == chosen


def test_every_recording_whole_and_again_the_same(stage, speech) -> None:
    torch.manual_seed(0)
    model = stage.model().eval()
    config, told = GuessConfig(temperature=1.0), []
    first, again = (dict(guess_all(stage, model, speech, config, lambda *at: told.append(at))) for _ in range(2))
    assert list(first) == [f"clip{i}" for i in speech.indices] and told[-1] == (len(first), len(first))
    for index in speech.indices:
        name = f"clip{index}"
        assert first[name].codes.shape == (3, speech.clip(int(index)).codes.shape[1]) and first[name].shift is None
        assert np.array_equal(first[name].codes, again[name].codes)
    other = dict(guess_all(stage, model, speech, replace(config, seed=1)))
    assert any(not np.array_equal(first[name].codes, other[name].codes) for name in first)


def test_what_is_said_after_its_own_past_is_what_the_stage_generates(stage, speech) -> None:
    """Each recording in the voice of another of its speaker's, whoever is said beside it; other with another seed."""
    torch.manual_seed(0)
    stage = replace(stage, config=replace(stage.config, prompt=PromptConfig(seconds=(0.08, 0.16), max_seconds=1.0)))
    model = stage.model().eval()
    config = GuessConfig(temperature=1.0, own_past=True, rows=3)
    said = dict(guess_all(stage, model, speech, config))
    assert list(said) == [f"clip{i}" for i in speech.indices]
    alone = dict(guess_all(stage, model, speech, replace(config, rows=1)))
    other = dict(guess_all(stage, model, speech, replace(config, seed=1)))
    guessed = dict(guess_all(stage, model, speech, replace(config, own_past=False)))
    heard: list[int] = []
    for index in map(int, speech.indices):
        codes, clip = said[f"clip{index}"].codes, speech.clip(index)
        assert codes.shape == (3, clip.codes.shape[1]) and np.array_equal(codes, alone[f"clip{index}"].codes)
        work = saying(stage, speech, index, Sampling(temperature=1.0), 0)
        stream = torch.Generator().manual_seed(index)
        made = generate_coarse(stage, model, clip.semantic, work.prompt, Sampling(temperature=1.0), stream)
        assert np.array_equal(codes, made)
        heard.append(work.prompt.codes.shape[1])
    assert max(heard) > 0
    assert all(any(not np.array_equal(said[name].codes, few[name].codes) for name in said) for few in (other, guessed))


def test_levels_that_are_expected_are_said_with_their_shift(stage, speech) -> None:
    """The same codes; and from what was drawn to the mean of the entries, in as many frames."""

    class Codec:
        def entries(self, level: int) -> torch.Tensor:
            return torch.full((16, 5), float(level)) + torch.eye(16, 5)

    torch.manual_seed(0)
    model, config = stage.model().eval(), GuessConfig(temperature=1.0, own_past=True)
    plain = dict(guess_all(stage, model, speech, config))
    codec: Any = Codec()
    shifted = dict(guess_all(stage, model, speech, replace(config, expected_levels=2), codec=codec))
    for name, found in shifted.items():
        assert np.array_equal(found.codes, plain[name].codes) and plain[name].shift is None
        assert found.shift is not None and found.shift.shape == (5, found.codes.shape[1])
        drawn = sum(codec.entries(level)[found.codes[level].astype(np.int64)].numpy() for level in (1, 2))
        mean = found.shift + drawn.T  # of entries that lie in 0 to 1 above their level's number, twice
        assert (mean > 3 - 1e-4).all() and (mean < 5 + 1e-4).all() and np.abs(found.shift).max() > 0.1
    with pytest.raises(ValueError, match="expected_levels=4: the coarse stage makes 3"):
        next(guess_all(stage, model, speech, replace(config, expected_levels=4), codec=codec))


def test_who_cannot_guess_says_so(stage, specs) -> None:
    with pytest.raises(ValueError, match=r"guidance=2\.0 is for own_past"):
        GuessConfig(guidance=2.0)
    with pytest.raises(ValueError, match="expected_levels is for own_past"):
        GuessConfig(expected_levels=1)
    for layout in ("flattened", "delayed"):
        other = replace(stage, config=replace(stage.config, layout=layout))
        with pytest.raises(ValueError, match=f"{layout} layout"):
            guessing(other, other.model())
    with pytest.raises(ValueError, match="only a coarse stage"):
        guessing(object(), stage.model())


def test_the_verb(starter_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*line: object) -> int:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in line])
        return int(ended.value.code or 0)

    made = tmp_path / "guesses.safetensors"
    assert run("guess", STARTER, starter_shards, "-o", made, "threads=1") == 0
    found = Guesses.load(made)
    assert found.levels == 3 and len(found.spans) == 10 and found.of("2") is not None and found.of("0") is None
    assert run("guess", STARTER, starter_shards, "-o", made) == 1
    assert "exists already" in capsys.readouterr().err
    own = ("own_past=true", "expected_levels=2", "threads=1")
    assert run("guess", STARTER, starter_shards, "-o", tmp_path / "said.safetensors", *own) == 0
    said = Guesses.load(tmp_path / "said.safetensors")
    assert said.own_past and said.shift is not None and said.shift.shape[1] == said.codes.shape[1]
    stage = shutil.copytree(STARTER / "stages" / "coarse", tmp_path / "coarse")
    assert run("guess", stage, starter_shards, "-o", tmp_path / "none.safetensors", *own) == 1
    assert "name a bundle" in capsys.readouterr().err


def test_a_stage_learns_on_its_own_past(stage, speech) -> None:
    """In training alone, and not in the prompt: frames whose past holds its own guesses see another past."""
    own = replace(stage, config=replace(stage.config, own_past=1.0, code_noise=0.0))
    torch.manual_seed(0)
    model = own.model()
    clip = speech.clip(1, 2, 8)
    prompt = clip.codes.shape[1] // 2
    batch = own.collate([Span(clip.semantic, clip.codes[:3], prompt)])
    seen: list[torch.Tensor] = []
    embed = model.embed
    model.embed = lambda codes: seen.append(codes[0]) or embed(codes)  # type: ignore[func-returns-value]
    loss, _ = model.train().loss(batch)
    loss.backward()
    true, mixed = seen
    assert torch.equal(true, batch["codes"]) and torch.equal(mixed[:, :prompt], true[:, :prompt])
    assert (mixed[:, prompt:] != true[:, prompt:]).float().mean() > 0.5  # a random model guesses one in sixteen
    seen.clear()
    model.eval().loss(batch)
    assert len(seen) == 1 and torch.equal(seen[0], batch["codes"])
    with pytest.raises(ValueError, match="layout=aligned"):
        replace(stage.config, layout="flattened", own_past=0.5)
