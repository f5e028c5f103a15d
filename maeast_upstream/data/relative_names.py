"""Names of files relative to a folder, so that a table of them holds on other machines, too."""

import os

from maeast_upstream.display import as_name, as_text, without_secrets
from maeast_upstream.storage.remote import is_remote

ROOT_KEY = "relative_to"
"""Key of the settings in the metadata of a table for the folder that its paths are relative to."""


class Root:
    """A folder that names in a table are relative to."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Raises ValueError if it is no folder; an address is not looked up."""
        text = os.fspath(folder)
        self._given = as_text(without_secrets(text))
        if is_remote(text):
            self.recorded = without_secrets(text).rstrip("/")
            self._beginnings = [f"{self.recorded}/"]
            return
        if not os.path.isdir(text):
            raise ValueError(f"{self._given}: no such folder, which paths should be relative to")
        self.recorded = as_name(os.path.abspath(text))
        """Its name in the metadata of the table."""
        # where the folder or one around it is a link, files may be given by either name
        self._beginnings = [os.path.join(name, "") for name in (os.path.abspath(text), os.path.realpath(text))]

    def name(self, path: str) -> str:
        """Return the path of a file relative to the folder.

        Raises:
            ValueError: It is outside the folder.
        """
        whole = path if is_remote(path) else os.path.abspath(path)
        name = self._below(whole)
        if name is None and not is_remote(path):
            folder, last = os.path.split(whole)
            name = self._below(os.path.join(os.path.realpath(folder), last))
        if name is not None:
            return name
        raise ValueError(f"{as_text(path)}: outside of {self._given}, which paths should be relative to")

    def _below(self, path: str) -> str | None:
        found = next((top for top in self._beginnings if f"{path}/".startswith(top)), None)
        return None if found is None else path[len(found) :] or "."


def located(path: str, root: str) -> str:
    """Return the path in a table as it is found from the current folder.

    Args:
        path: As the table has it.
        root: The folder that it is relative to, as `Root.recorded`; "" for the current folder.
    """
    return path if not root or is_remote(path) or os.path.isabs(path) else f"{root}/{path}"


def found_root(recorded: object) -> str:
    """Return the folder that the names of a table are relative to, if it is there; else "", the current folder."""
    if not isinstance(recorded, str) or not recorded:
        return ""
    return recorded if is_remote(recorded) or os.path.isdir(recorded) else ""
