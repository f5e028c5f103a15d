"""``maeast export-s3prl``: a folder that s3prl takes with ``--hub huggingface``, here or as a hub repository."""

from pathlib import Path

from maeast_upstream import checkpoint

EXPERT = '''"""MAE-AST for s3prl's --hub huggingface; `maeast_upstream.load_model` takes this folder, too."""

from pathlib import Path

from maeast_upstream import expert


class UpstreamExpert(expert.UpstreamExpert):
    """The encoder whose weights lie beside this file."""

    def __init__(self, ckpt=None, model_config=None, refresh=False, **options):
        super().__init__(Path(__file__).resolve().parent, model_config, refresh, **options)
'''


REQUIREMENTS = "maeast-upstream\n"


FILES = {"expert.py": EXPERT, "requirements.txt": REQUIREMENTS}


def check_folder(folder: Path) -> None:
    """ValueError unless it is new, empty or an earlier export."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; expected the name of a folder")
    # Python's cache is there once s3prl has imported expert.py
    ours = {*FILES, checkpoint.WEIGHTS_NAME, checkpoint.CONFIG_NAME, "__pycache__"}
    others = sorted({path.name for path in folder.iterdir()} - ours) if folder.is_dir() else []
    if others:
        raise ValueError(f"{folder} is a folder with other things in it ({others[0]}); give another name")
