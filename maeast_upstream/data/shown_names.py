"""Names of addresses without their passwords and signatures."""

from maeast_upstream.display import REDACTED, without_secrets


class ShownNames:
    """Gives each address a name without secrets; addresses that differ only in a secret get different names.

    The names follow from the order of the addresses: ``http://user:***@host/a.wav`` for the first, ``***2`` in the name
    of the next with another password. They are no digests, from which a short password could be found.
    """

    def __init__(self) -> None:
        self._first: dict[int, int] = {}
        self._others: dict[int, int] = {}
        self._counts: dict[int, int] = {}

    def name(self, address: str, file: str = "") -> str:
        """Return the name of an address, or of a member of the tar ``file``."""
        member = address.removeprefix(file) if file else ""
        shown = without_secrets(file) + member if file and member != address else without_secrets(address)
        if shown == address:
            return address
        group, secret = hash(shown), hash(address)  # 16 bytes of memory rather than two addresses
        if self._first.setdefault(group, secret) == secret:
            return shown
        if secret not in self._others:
            self._others[secret] = self._counts[group] = self._counts.get(group, 1) + 1
        return shown.replace(REDACTED, f"{REDACTED}{self._others[secret]}", 1)
