"""What the cores learned, in secure storage: the A7 keeps it, so that it survives a restart and a power cut.

One name for each core; a write replaces the whole state or nothing of it. An empty value is a state that was reset.
Whether a core may go on with what is there, its template decides (`check_taken`).
"""

from typing import Protocol

from protocol.errors import ProtocolError
from protocol.geometry import Core
from protocol.learned_state import ForeignStateError, LearnedState, parse_state, require_layout
from protocol.learning import LearningTemplate, StatePolicy

_NAME = "learned/state/"


class ItemStorage(Protocol):
    """Secure storage: bytes by name; part of `device_sim.hardware.secure_storage.SecureStorage`."""

    def get(self, name: str) -> bytes | None:
        """Return what is kept under a name, or None."""

    def put(self, name: str, value: bytes) -> None:
        """Keep bytes under a name, whole or not at all."""


class LearnedStates:
    """What the cores of one device learned.

    Args:
        storage: of the device.
    """

    def __init__(self, storage: ItemStorage) -> None:
        self._storage = storage

    def recall(self, core: Core) -> bytes | None:
        """Return what a core learned, unverified, or None."""
        return self._storage.get(_NAME + core) or None

    def keep(self, core: Core, state: bytes) -> None:
        """Keep what a core learned."""
        self._storage.put(_NAME + core, state)

    def forget(self, core: Core) -> None:
        """Reset what a core learned."""
        self._storage.put(_NAME + core, b"")


def check_taken(unverified_state: bytes, template: LearningTemplate, *, component_id: str) -> LearnedState:
    """Return a state that a template goes on with.

    Args:
        unverified_state: from secure storage or from the service.
        template: of the core.
        component_id: GUID of the template's component.

    Raises:
        LearnedStateError: no state.
        ForeignStateError: another component's, of other features, or another template's where this one resets.
    """
    state = parse_state(unverified_state)
    require_layout(state, component_id=component_id, layout=template.layout)
    if state.template_sha256 != template.sha256 and template.policy is StatePolicy.RESET:
        raise ForeignStateError(
            f"learned state: expected one of template {template.sha256[:12]}…, which resets those of others, "
            f"found one of {state.template_sha256[:12]}…"
        )
    return state


def taken_or_none(
    unverified_state: bytes | None, template: LearningTemplate, *, component_id: str
) -> tuple[LearnedState | None, str]:
    """Return the state to go on with, or None and why the core begins anew; see `check_taken`."""
    if unverified_state is None:
        return None, "nothing was learned before"
    try:
        return check_taken(unverified_state, template, component_id=component_id), ""
    except ProtocolError as error:
        return None, str(error)
