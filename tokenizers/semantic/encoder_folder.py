"""An encoder that was trained here, as a folder: an ordinary transformers checkpoint with what CTC learned beside it.

    encoder/
      config.json  preprocessor_config.json  model.safetensors (float16)    AutoModel.from_pretrained reads them
      ctc.safetensors  ctc.json                                             the CTC head, for probes and alignments
      run/                                                                  the run folder of the training loop

Knows not how it was trained.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from triptych.tokenizers.semantic.architecture import Architecture, build_encoder, front_end
from triptych.tokenizers.semantic.ctc import TextClasses
from triptych.tokenizers.semantic.ctc_head import CtcHead
from triptych.tokenizers.semantic.encoder import Encoder, quiet
from triptych.tokenizers.semantic.families import save_front_end
from triptych.tokenizers.semantic.inputs import FrontEnd
from triptych.tokenizers.semantic.masked import MaskedPrediction


def write_encoder(
    model: MaskedPrediction, architecture: Architecture, folder: Path, classes: TextClasses | None
) -> None:
    """The bare encoder in float16 as a transformers folder, the CTC head beside it."""
    beside = folder / ".export"
    halved = build_encoder(architecture)
    halved.load_state_dict(model.encoder.state_dict())
    with quiet():
        halved.half().save_pretrained(beside)
    save_front_end(front_end(architecture), beside)
    for file in sorted(beside.iterdir()):
        file.replace(folder / file.name)
    beside.rmdir()
    if (head := model.ctc_head) is not None and classes is not None:
        steps, layer = model.weights.ctc_steps, model.ctc_layer
        CtcHead(head.weight, head.bias, layer, steps, tuple(classes.names)).save(folder)


def start_from(model: MaskedPrediction, front: FrontEnd, source: str, classes: TextClasses | None) -> None:
    """Puts the weights of a trained encoder into `model`, and what its CTC head knows of the same classes.

    Raises:
        ValueError: no such encoder, one of another architecture, or one that has learned with another floor.
    """
    encoder = Encoder.load(source, model.encoder.config.num_hidden_layers)
    if encoder.front.floor_db not in (0.0, front.floor_db):
        floor = f"{encoder.front.floor_db:g}"
        raise ValueError(f"init: {source} hears with a floor_db of {floor}: say architecture.floor_db={floor}")
    trained = encoder.model.state_dict()
    own = model.encoder.state_dict()
    wrong = [name for name, value in own.items() if name not in trained or trained[name].shape != value.shape]
    if wrong:
        raise ValueError(f"init: {source} has another architecture ({wrong[0]} differs): give the one that it has")
    model.encoder.load_state_dict({name: trained[name] for name in own})
    head = CtcHead.load(Path(source))
    if model.ctc_head is not None and classes is not None and head is not None and head.layer == model.ctc_layer:
        take_head(model.ctc_head, head, (*classes.names, BLANK), model.weights.ctc_steps)


BLANK = "blank"
"""how the class after the last is called here; no phoneme is"""


@torch.no_grad()
def take_head(own: nn.Linear, head: CtcHead, names: Sequence[str], steps: int) -> None:
    """Copies what `head` knows of the classes `names`, by name; classes that it has not stay as they are."""
    if head.steps != steps:
        return
    theirs = (*head.classes, BLANK)
    places = [(row, theirs.index(name)) for row, name in enumerate(names) if name in theirs]
    rows, sources = torch.tensor(places).T
    for mine, other in ((own.weight, head.weight), (own.bias, head.bias)):
        shaped = mine.view(steps, len(names), -1)
        shaped[:, rows] = other.float().view(steps, len(theirs), -1)[:, sources]
