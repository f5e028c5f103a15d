"""MAE-AST audio encoders: `load_model()` returns an `Encoder`, whose `embed` and `encode` turn audio into features."""

import os
import pwd
from typing import TYPE_CHECKING

from maeast_upstream.lazy import lazily
from maeast_upstream.version import __version__

if TYPE_CHECKING:
    from maeast_upstream.audio.reading import read_audio as load_audio
    from maeast_upstream.encoder import Encoded, Encoder, load_model
    from maeast_upstream.readout import Readout

__all__ = ["Encoded", "Encoder", "Readout", "__version__", "load_audio", "load_model"]

__getattr__ = lazily(
    __name__,
    {
        "Encoded": "encoder:Encoded",
        "Encoder": "encoder:Encoder",
        "load_audio": "audio.reading:read_audio",
        "load_model": "encoder:load_model",
        "Readout": "readout:Readout",
    },
)


def _name_user() -> None:
    """Name a user id that has no name, as in a container: torch and other packages ask for it and raise KeyError."""
    if not any(map(os.environ.get, ("LOGNAME", "USER", "LNAME", "USERNAME"))):  # where getpass.getuser() looks first
        try:
            pwd.getpwuid(os.getuid())
        except KeyError:
            os.environ["LOGNAME"] = f"uid{os.getuid()}"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_name_user()
