"""Tells a folder from a model of the hub, before anything waits for a network that is not there.

    models/mine, ./mine, mine     a folder, or a mistake that is named at once
    owner/name                    a folder if there is one; else a model of the hub, fetched or from its cache
    ~/models/mine                 a folder, once `expanded` at the door: no reader under it knows what ~ is

Knows nothing of what lies in either.
"""

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

PATIENCE = 3.0
"""seconds to wait for the hub's first word"""


def expanded(name: str | Path) -> str | Path:
    """`name` with a ~ at its beginning as the home folder; a name of the hub stays one."""
    plain = os.path.expanduser(name)
    return Path(plain) if isinstance(name, Path) else plain


def on_this_machine(name: str | Path) -> bool:
    """True where `name` must be read without a network: a folder, or a hub model while the hub is out of reach.

    Raises:
        ValueError: neither a folder nor of the form owner/name.
    """
    if Path(name).is_dir():
        return True
    text = str(name)
    parts = text.split("/")
    if len(parts) != 2 or not all(parts) or text[0] in ".~" or isinstance(name, Path):
        raise ValueError(f"{name} does not exist: give a folder, or a model of the hub as owner/name")
    return not hub_answers()


def hub_answers() -> bool:
    """Whether the hub can be asked now; False where HF_HUB_OFFLINE says so."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies():  # then another machine finds the hub
        return True
    place = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((place.hostname or "", place.port or 443), timeout=PATIENCE).close()
    except OSError:
        return False
    return True
