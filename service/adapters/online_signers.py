"""The service's own keys that metadata names: every generation that it holds, also those that came while it runs."""

from collections.abc import Collection
from pathlib import Path

from pki.online import generations, online_keys
from pki.roles import OnlineKey
from protocol.signing import Signer, tuf_key
from service.application.repository import OnlineKeyError


class OnlineSigners:
    """Finds keys by the ids that metadata gives them; a key is read where it is first asked for.

    Args:
        data_dir: the service's folder.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._known: dict[str, dict[str, Signer]] = {}  # by role and key id
        self._names: dict[str, list[str]] = {}

    def named(self, role: OnlineKey, key_ids: Collection[str]) -> list[Signer]:
        """Return the signers among the keys that metadata names.

        Raises:
            OnlineKeyError: it names none that the service holds.
            PkiError: a key cannot be used.
        """
        held = self._held(role)
        found = [held[key_id] for key_id in key_ids if key_id in held]
        if not found:
            named = ", ".join(f"{key_id[:16]}…" for key_id in key_ids)
            raise OnlineKeyError(f"role {role}: expected a key that the service holds, found {named}")
        return found

    def held(self, role: OnlineKey) -> list[Signer]:
        """Return the signers of every generation of a role's key, oldest first.

        Raises:
            PkiError: a key cannot be used.
        """
        return list(self._held(role).values())

    def _held(self, role: OnlineKey) -> dict[str, Signer]:
        names = generations(self._data_dir / "csr", role) or [role.value]
        if names != self._names.get(role):
            keys = online_keys(self._data_dir)
            signers = [keys.load(name) for name in names if keys.holds(name)] or [keys.load(names[-1])]
            self._known[role] = {tuf_key(signer.public_key).keyid: signer for signer in signers}
            self._names[role] = names
        return self._known[role]
