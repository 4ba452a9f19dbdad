"""How far a device is with its action: kept in secure storage, told to the service in reports that arrive at last.

Every change of state and its report are kept in one write, before anything is sent. A report leaves the storage when
the service has taken it, so it may arrive twice and after a restart. The version manifest follows the last report.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from device_sim.errors import DeviceSimError
from device_sim.hardware.ports import DeviceMachine
from device_sim.hardware.secure_storage import REPORTS
from device_sim.network.ports import HttpTransport
from device_sim.network.problems import unexpected
from protocol.document import Document, canonical_json
from protocol.geometry import Slot
from protocol.lengths import write_length
from protocol.messages import (
    MANIFEST_PAYLOAD_TYPE,
    MAX_DETAIL_CHARACTERS,
    ActionReport,
    ActionState,
    Attack,
    Cause,
    VersionManifest,
)
from protocol.model import Sha256Hex
from protocol.shadow import ShadowCounts
from protocol.updates import Order

REPORTS_PATH = "/device/v1/reports"
MANIFEST_PATH = "/device/v1/manifest"
STORAGE_NAME = REPORTS
MANIFEST_COUNTER = "version-manifest"
MAX_WAITING = 64  # reports; the oldest that is not final makes room, or else the oldest
MAX_REPLY_BYTES = 16 * 1024
SENT = range(200, 300)
NO_CONTENT = 204
CLIENT_ERRORS = range(400, 500)
WORTH_TRYING_AGAIN = frozenset({401, 403, 408, 425, 429})
_HELD = frozenset({ActionState.DOWNLOADED, ActionState.SHADOWING})


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an update broke.

    Attributes:
        rule: name of the error's class.
        attack: what that indicates, or None.
    """

    rule: str
    attack: Attack | None


class Deferral(StrEnum):
    """Where the question stands whether the update may be put off."""

    NONE = "none"
    ASKED = "asked"
    TAKEN = "taken"
    REFUSED = "refused"


class ReportRefusedError(DeviceSimError):
    """The service refuses a report or manifest for good."""


class _Progress(Document):
    action_id: str | None = None
    attempt: int = 1
    sequence: int = 0
    trials: Mapping[Sha256Hex, int] = {}
    patch_failures: int = 0
    deferral: Deferral = Deferral.NONE
    deferrals: int = 0
    latest: ActionReport | None = None
    outcome: ActionReport | None = None
    waiting: tuple[ActionReport, ...] = ()
    is_manifest_due: bool = False
    attack_indicator: str = ""
    attack: Attack | None = None


_OF_ONE_ACTION = {
    "action_id",
    "attempt",
    "sequence",
    "trials",
    "patch_failures",
    "deferral",
    "deferrals",
    "latest",
    "outcome",
}


class Progress:
    """One device's progress with its latest action.

    Args:
        machine: keeps it, and signs the manifest.
        observe: is told every new report.
    """

    def __init__(self, machine: DeviceMachine, *, observe: Callable[[ActionReport], None]) -> None:
        self._machine = machine
        self._observe = observe
        self._holds: Order | None = None
        self._state = machine.storage.get_document(STORAGE_NAME, _Progress) or _Progress()

    @property
    def unfinished_action(self) -> str | None:
        """The action that a restart interrupted, or None; one that was put off comes again from the service."""
        is_put_off = self._state.deferral is Deferral.TAKEN
        return None if self._state.outcome or is_put_off else self._state.action_id

    def trials(self, digest: str) -> int:
        """Return how often the action began the trial of an image; more than once after power cuts."""
        return self._state.trials.get(digest, 0)

    @property
    def patch_failures(self) -> int:
        """How often a patch did not arrive in this action."""
        return self._state.patch_failures

    @property
    def has_begun(self) -> bool:
        """Whether the action was at work before, and not put off since."""
        latest = self._state.latest
        return latest is not None and latest.state is not ActionState.SCHEDULED

    @property
    def deferral(self) -> Deferral:
        """Where the question stands whether the action may be put off."""
        return self._state.deferral

    @property
    def deferrals(self) -> int:
        """How often the action was put off."""
        return self._state.deferrals

    @property
    def holds(self) -> tuple[str, Order] | None:
        """The action that waits for another order, and the one it waits with; None while it is at work."""
        action_id = self.unfinished_action
        return None if action_id is None or self._holds is None else (action_id, self._holds)

    @property
    def has_held(self) -> bool:
        """Whether the action has come so far that it waits for an order; survives a restart."""
        latest = self._state.latest
        return latest is not None and latest.state in _HELD

    @property
    def has_compared(self) -> bool:
        """Whether what a model in shadow came to has been reported."""
        return self._state.latest is not None and self._state.latest.shadow is not None

    @property
    def has_mail(self) -> bool:
        """Whether a report or a manifest waits to be sent."""
        return bool(self._state.waiting) or self._state.is_manifest_due

    @property
    def attempt(self) -> int:
        """Which attempt at the action it is, from 1."""
        return self._state.attempt

    def begin(self, action_id: str, *, attempt: int = 1) -> bool:
        """Take up an action, or a further attempt at it; False when its end is known, which is then reported again."""
        state, self._holds = self._state, None
        if state.action_id != action_id or state.attempt < attempt:
            deferrals = state.deferrals if state.action_id == action_id else 0
            begun = _Progress(action_id=action_id, attempt=attempt, deferrals=deferrals)
            self._keep(**{name: getattr(begun, name) for name in _OF_ONE_ACTION})
            return True
        if state.deferral is Deferral.TAKEN:
            self._keep(deferral=Deferral.NONE)
        if state.outcome is not None and state.outcome not in state.waiting:
            self._keep(waiting=_with(state.waiting, state.outcome))
        return state.outcome is None

    def hold(self, order: Order) -> None:
        """Keep in mind that an order is obeyed, until the action goes on."""
        self._holds = order

    def forget(self) -> None:
        """Forget an action that was taken back."""
        self._holds = None
        self._keep(action_id=None, latest=None, outcome=None)

    def count_trial(self, digest: str) -> None:
        """Keep that the trial of an image begins, before it does."""
        self._keep(trials={**self._state.trials, digest: self.trials(digest) + 1})

    def count_patch_failure(self) -> None:
        """Keep that a patch did not arrive."""
        self._keep(patch_failures=self._state.patch_failures + 1)

    def report(
        self,
        state: ActionState,
        *,
        cause: Cause | None = None,
        detail: str = "",
        refusal: Refusal | None = None,
        shadow: ShadowCounts | None = None,
    ) -> None:
        """Keep a report of a new state, unless it says what the last one said; `send` sends it.

        Args:
            state: the action's.
            cause: of a failure.
            detail: what was expected and found.
            refusal: when verification refused something; an attack goes into the manifest, too.
            shadow: what a comparison that has ended came to.
        """
        if self._state.action_id is None:
            return
        report = ActionReport(
            action_id=self._state.action_id,
            attempt=self._state.attempt,
            sequence=self._state.sequence,
            state=state,
            cause=cause,
            detail=_clean(detail),
            digests=self._digests() if state.is_final else {},
            attack=refusal.attack if refusal else None,
            rule=refusal.rule if refusal else "",
            shadow=shadow,
        )
        if _is_said(report, self._state.latest):
            return
        waiting = _with(self._state.waiting, report)
        changes: dict[str, object] = {"sequence": report.sequence + 1, "waiting": waiting, "latest": report}
        if state.is_final:
            changes |= {"outcome": report, **self._indicated(refusal, detail)}
        self._keep(**changes)
        self._observe(report)

    def put_off(self, lasts: timedelta) -> None:
        """Ask for the action to be put off, unless that is asked already; `send` sends it and hears the answer."""
        if self._state.action_id is None or self._state.deferral is not Deferral.NONE:
            return
        report = ActionReport(
            action_id=self._state.action_id,
            attempt=self._state.attempt,
            sequence=self._state.sequence,
            state=ActionState.SCHEDULED,
            detail=f"put off for {write_length(lasts)} by its user",
            defer_seconds=lasts.total_seconds(),
        )
        waiting = _with(self._state.waiting, report)
        self._keep(sequence=report.sequence + 1, waiting=waiting, latest=report, deferral=Deferral.ASKED)
        self._observe(report)

    def suspect(self, refusal: Refusal, detail: str) -> None:
        """Have the next manifest tell of an attack that does not end the action."""
        self._keep(**self._indicated(refusal, detail))

    def _indicated(self, refusal: Refusal | None, detail: str) -> dict[str, object]:
        if refusal is not None and refusal.attack is not None:
            indicator = _clean(f"{refusal.rule}: {detail}")
            return {"is_manifest_due": True, "attack_indicator": indicator, "attack": refusal.attack}
        if self._state.is_manifest_due and self._state.attack is not None:
            return {}  # nobody has heard of it yet
        return {"is_manifest_due": True, "attack_indicator": "", "attack": None}

    def manifest_due(self) -> None:
        """Have a version manifest sent, as after every boot."""
        self._keep(is_manifest_due=True)

    def send(self, transport: HttpTransport) -> None:
        """Send what waits, oldest first.

        Raises:
            NetworkError: the service was not reached or could not take it now; it stays.
            ReportRefusedError: the service will never take it; it is gone, the rest still waits.
        """
        while self._state.waiting:
            report = self._state.waiting[0]
            refusal = _post(transport, REPORTS_PATH, canonical_json(report))
            self._keep(waiting=self._state.waiting[1:], **self._answered(report, refusal))
            _raise_if(refusal)
        if self._state.is_manifest_due:
            refusal = _post(transport, MANIFEST_PATH, self._manifest(self._machine.clock.now()))
            self._keep(is_manifest_due=False)
            _raise_if(refusal)

    def _answered(self, report: ActionReport, refusal: str) -> dict[str, object]:
        is_present = (report.action_id, report.attempt) == (self._state.action_id, self._state.attempt)
        if report.defer_seconds is None or not is_present:
            return {}
        if refusal:
            return {"deferral": Deferral.REFUSED}
        return {"deferral": Deferral.TAKEN, "deferrals": self._state.deferrals + 1}

    def _manifest(self, now: datetime) -> bytes:
        manifest = VersionManifest(
            device_id=self._machine.device_id,
            counter=self._machine.rot.increment(MANIFEST_COUNTER),
            reported_at=now,
            images=self._digests(),
            attack_indicator=self._state.attack_indicator,
            attack=self._state.attack,
        )
        return self._machine.rot.seal(manifest, MANIFEST_PAYLOAD_TYPE)

    def _digests(self) -> Mapping[Slot, str]:
        return {slot: image.digest for slot, image in self._machine.installed().items()}

    def _keep(self, **changes: object) -> None:
        self._state = self._state.model_copy(update=changes)
        self._machine.storage.put_document(STORAGE_NAME, self._state)


def _is_said(report: ActionReport, latest: ActionReport | None) -> bool:
    if latest is None or latest.state is not report.state:
        return False
    return report == latest.model_copy(update={"sequence": report.sequence})


def _with(waiting: tuple[ActionReport, ...], report: ActionReport) -> tuple[ActionReport, ...]:
    """Return what waits with one more; where that is too much, without the one that matters least."""
    waiting = (*waiting, report)
    if len(waiting) <= MAX_WAITING:
        return waiting
    least = next((index for index, each in enumerate(waiting) if not each.state.is_final), 0)
    return waiting[:least] + waiting[least + 1 :]


def _clean(detail: str) -> str:
    """Return a detail as a report may carry it; what it quotes came from anywhere."""
    return detail.encode(errors="replace").decode().replace("\0", "\ufffd")[:MAX_DETAIL_CHARACTERS]


def _post(transport: HttpTransport, path: str, body: bytes) -> str:
    """Post a document; return why the service refused it for good, or an empty string."""
    response = transport.request("POST", path, max_bytes=MAX_REPLY_BYTES, body=body)
    if response.status in SENT:
        return ""
    failure = unexpected(path, response, expected=NO_CONTENT)
    if response.status in CLIENT_ERRORS and response.status not in WORTH_TRYING_AGAIN:
        return str(failure)
    raise failure


def _raise_if(refusal: str) -> None:
    if refusal:
        raise ReportRefusedError(refusal)
