"""Decoding, id by id, with a cache: prefill once, then one step an id.

    row 0   prompt          [bos] t t t t [sep] s s s ...      conditional
    row 1   unconditional    pad  pad ... [bos][sep] s s s ...      only with guidance; both rows get the same new ids

Invariant: cached decoding gives the logits of a full forward pass. Knows nothing of tokenization: the caller says which
ids are legal, which one ends, and at which positions they lie.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.lm.cache import Cache
from triptych.lm.sampling import RepetitionGuard, Sampling, choose, guide
from triptych.lm.transformer import LanguageModel


def prefill(model: LanguageModel, ids: Tensor, positions: Tensor, cache: Cache) -> Tensor:
    """Reads the prompts ids [B, S] into the cache; logits [B, V] of the first new id."""
    return model.logits(model.hidden(ids, positions=positions, cache=cache)[:, -1])


def decode_one(model: LanguageModel, ids: Tensor, positions: Tensor, cache: Cache) -> Tensor:
    """Reads one id a row, ids [B], at positions [1] or [B, 1]; logits [B, V] of the next."""
    return model.logits(model.hidden(ids[:, None], positions=positions, cache=cache)[:, 0])


@torch.inference_mode()
def generate(
    model: LanguageModel,
    prompt_ids: Tensor,
    *,
    legal: Tensor,
    eos_id: int | None,
    max_new: int,
    sampling: Sampling,
    generator: torch.Generator,
    min_new: int = 0,
    unconditional_ids: Tensor | None = None,
    positions: Tensor | None = None,
    unconditional_positions: Tensor | None = None,
    position_of: Callable[[int], float] | None = None,
) -> list[int]:
    """Continues a prompt; returns the new ids, without the one that ended them.

    Args:
        prompt_ids: int [S], S at least 1.
        legal: bool [V], or [P, V]: row i mod P holds for new id i. `eos_id` need not be in it.
        eos_id: ends the sequence; allowed from new id number `min_new` on. None: exactly `max_new` ids.
        unconditional_ids: int [S'], the prompt without its condition; needed where guidance is not 1.
        positions: [S] of the prompt; default 0..S-1.
        unconditional_positions: [S'] likewise; default: consecutive, up to the prompt's last position.
        position_of: position of new id i; default: consecutive, after the prompt's last position.
    Raises:
        ValueError: guidance without an unconditional prompt, or a model whose logits are not numbers.
    """
    assert not model.training, "generate with a model in eval mode"
    prompts = _Prompts.of(prompt_ids, positions, unconditional_ids, unconditional_positions, sampling)
    weight = model.embedding.weight
    length, last = prompts.ids.shape[1], float(prompts.positions[0, -1])
    places = [position_of(i) if position_of else last + 1 + i for i in range(max_new)]
    new_positions = torch.tensor(places, dtype=torch.float32, device=weight.device)
    body, ending = _legal_rows(legal.to(weight.device), eos_id, min_new)
    guard, new = RepetitionGuard(sampling), list[int]()
    cache = Cache.make(
        model.config, len(prompts.ids), length + max_new, weight.dtype, weight.device, start=prompts.start
    )
    logits = prefill(model, prompts.ids.to(weight.device), prompts.positions.to(weight.device), cache)
    if bool(logits.isnan().any()):
        raise ValueError("the model's logits are not numbers: its checkpoint is broken, go back to an earlier one")
    for i in range(max_new):
        rows = body if i < min_new else ending
        allowed = guard.narrow(rows[i % len(rows)]) if guard.active else rows[i % len(rows)]
        scores = guide(logits[:1], logits[1:], sampling.guidance) if len(logits) == 2 else logits
        chosen = choose(scores, allowed, sampling, generator)
        id = int(chosen)
        if id == eos_id:
            break
        new.append(id)
        guard.show(id)
        if len(new) < max_new:
            logits = decode_one(model, chosen.expand(len(logits)), new_positions[i : i + 1], cache)
    return new


@dataclass(frozen=True)
class _Prompts:
    """One prompt, or two of equal length after padding on the left."""

    ids: Tensor
    """int64 [B, S]"""
    positions: Tensor
    """float [B, S]"""
    start: Tensor | None
    """int [B], first valid step; None: no padding"""

    @classmethod
    def of(
        cls,
        prompt: Tensor,
        positions: Tensor | None,
        unconditional: Tensor | None,
        unconditional_positions: Tensor | None,
        sampling: Sampling,
    ) -> "_Prompts":
        assert prompt.dim() == 1 and len(prompt), "a prompt is int [S] with at least one id"
        positions = torch.arange(len(prompt)).float() if positions is None else positions.float()
        if sampling.guidance == 1.0:
            return cls(prompt[None].long(), positions[None], None)
        if unconditional is None:
            raise ValueError(f"guidance {sampling.guidance} needs an unconditional prompt: give one, or set guidance=1")
        if unconditional_positions is None:
            unconditional_positions = positions[-1].cpu() - torch.arange(len(unconditional)).flip(0)
        sizes = torch.tensor([len(prompt), len(unconditional)])
        start = sizes.max() - sizes
        return cls(
            _pad_left((prompt.long(), unconditional.long())),
            _pad_left((positions, unconditional_positions.float())),
            start if bool(start.any()) else None,
        )


def _pad_left(rows: tuple[Tensor, Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([row.cpu() for row in rows], batch_first=True, padding_side="left")


def _legal_rows(legal: Tensor, eos_id: int | None, min_new: int) -> tuple[list[Tensor], list[Tensor]]:
    """Rows of legal ids, bool [V] each: before the end may come, and once it may."""
    body, ending = legal.reshape(-1, legal.shape[-1]).clone(), legal.reshape(-1, legal.shape[-1]).clone()
    if eos_id is not None:
        body[:, eos_id], ending[:, eos_id] = False, True
    assert bool((ending if min_new == 0 else body).any(-1).all()), "no id is legal"
    return list(body), list(ending)
