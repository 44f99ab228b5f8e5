"""How likely a text is to a causal language model: what is left to ask where nobody knows what should be said.

A proxy: it is low for what people often write, so it rewards the commonplace, and it hears only what the recogniser
wrote down. Knows no sound.
"""

from typing import Any

NO_MODEL = "none"
"""in the place of a name: nobody reads"""


def check_model(name: str) -> None:
    """Whether there is such a model, by its small files alone.

    Raises:
        ValueError: no such model, here or on the hub.
    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        AutoConfig.from_pretrained(name)
        AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise cannot_load(name, error) from None


def cannot_load(name: str, error: Exception) -> ValueError:
    """What is said of a model that is none."""
    return ValueError(f"language_model {name}: cannot be loaded: {str(error).splitlines()[0]}")


class Reader:
    """A causal language model through transformers.

    Raises:
        ValueError: no such model, here or on the hub.
    """

    def __init__(self, name: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name)
            self.model: Any = AutoModelForCausalLM.from_pretrained(name).eval()
        except (OSError, ValueError) as error:
            raise cannot_load(name, error) from None

    def nats(self, text: str) -> float | None:
        """The negative log probability of a text after the model's first token, in nats; None for a text without words.

        Texts of one language model can be compared; those of two cannot, unless counted by word.
        """
        import torch

        ids = self.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        start = self.tokenizer.bos_token_id
        start = self.tokenizer.eos_token_id if start is None else start
        if not text.split() or ids.shape[1] == 0:
            return None
        if start is not None:
            ids = torch.cat([torch.tensor([[start]]), ids], 1)
        with torch.inference_mode():
            scores = torch.log_softmax(self.model(input_ids=ids).logits[0, :-1].float(), -1)
        return float(-scores.gather(1, ids[0, 1:, None]).sum())
