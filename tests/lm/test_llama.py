from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from triptych.lm.llama import from_llama, load_llama, save_llama, to_llama
from triptych.lm.transformer import LanguageModel, TransformerConfig

V = 40
SMALL = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
FAMILIES = [(LlamaConfig, LlamaForCausalLM, {}), (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 12})]


def some_ids() -> torch.Tensor:
    return torch.randint(0, V, (2, 17), generator=torch.Generator().manual_seed(0))


def shake_norms(model: torch.nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("config_class", "model_class", "extra"), FAMILIES)
@torch.no_grad()
def test_transformers_models_come_in_unchanged(config_class: Any, model_class: Any, extra: Any, tied: bool) -> None:
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 500.0}
    config = config_class(**SMALL, **extra, tie_word_embeddings=tied, rope_parameters=rope)
    theirs = model_class(config).eval()
    shake_norms(theirs)
    ours = from_llama(config, theirs.state_dict()).eval()
    torch.testing.assert_close(ours(some_ids()), theirs(some_ids()).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
@torch.no_grad()
def test_our_models_go_out_and_come_back_unchanged(qk_norm: bool, tied: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = TransformerConfig(dim=32, layers=2, heads=4, kv_heads=2, qk_norm=qk_norm, rope_theta=777.0, norm_eps=1e-4)
    ours = LanguageModel(config, V, tied=tied).eval()
    shake_norms(ours)
    save_llama(ours, tmp_path, eos_id=3)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(theirs) is (Qwen3ForCausalLM if qk_norm else LlamaForCausalLM)
    torch.testing.assert_close(ours(some_ids()), theirs(some_ids()).logits, rtol=0, atol=1e-5)
    back = load_llama(tmp_path)
    assert back.tied == tied
    for name, tensor in ours.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)


@torch.no_grad()
def test_llama_3s_stretched_rotary_comes_in_and_goes_out(tmp_path: Path) -> None:
    """Over an earlier length of 48 positions, so that of the 16 rates some stay, some slow, some lie between."""
    torch.manual_seed(0)
    rope = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = LlamaConfig(**SMALL | {"num_attention_heads": 1, "num_key_value_heads": 1})
    config.rope_parameters = rope | {"original_max_position_embeddings": 48}
    theirs = LlamaForCausalLM(config).eval()
    ours = from_llama(config, theirs.state_dict()).eval()
    plain_rates = 500.0 ** -(torch.arange(16) / 16)
    ratio = plain_rates / ours.transformer._rates
    assert ratio[0] == 1 and ratio[-1] == pytest.approx(8) and ((ratio > 1.01) & (ratio < 7.9)).any()
    torch.testing.assert_close(ours(some_ids()), theirs(some_ids()).logits, rtol=0, atol=1e-5)
    save_llama(ours, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(some_ids()).logits, theirs(some_ids()).logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_fractional_positions_mean_what_they_mean_in_llama() -> None:
    config = LlamaConfig(**SMALL)
    theirs = LlamaForCausalLM(config).eval()
    ours = from_llama(config, theirs.state_dict()).eval()
    positions = torch.arange(17) / 1.5
    expected = theirs(some_ids(), position_ids=positions.expand(2, -1)).logits
    torch.testing.assert_close(ours(some_ids(), positions=positions), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("change", [{"causal": False}, {"alibi": True}])
def test_what_llama_cannot_say_is_refused(change: dict[str, bool]) -> None:
    with pytest.raises(ValueError, match="Llama equal"):
        to_llama(LanguageModel(TransformerConfig(dim=32, layers=1, heads=4, **change), V))


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("attention_bias", {"attention_bias": True}),
        ("rope_type", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
        ("hidden_act", {"hidden_act": "gelu"}),
    ],
)
def test_what_the_transformer_cannot_do_is_refused(key: str, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=key):
        from_llama(LlamaConfig(**SMALL, **change), {})
