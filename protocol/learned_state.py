"""What a device learned, as bytes: little-endian, P prototypes of F features.

    0    4    magic "TFLS"
    4    1    u8 version, 1
    5    1    u8 F, 3 to 18
    6    1    u8 P, 0 to 8
    7    1    zero
    8    16   component id, GUID in .NET byte order
    24   32   SHA-256 of the feature layout (`FeatureLayout.sha256`)
    56   32   SHA-256 of the template that it was learned under (`LearningTemplate.sha256`)
    88   4    u32 windows learned on this device
    92   4    f32 sensitivity
    96   4·P  u32 windows of each prototype
    …    4·P·F  f32 means, prototype by prototype
    …    4·P·F  f32 variances
    …    32   SHA-256 of everything before

The digest finds damage; it is no signature: a state is its device's own word, and nobody takes it for anything else.
Checks, in this order: 1. length; 2. magic and version; 3. counts against the length; 4. digest; 5. every number.
"""

import hashlib
import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from protocol.errors import MalformedError
from protocol.feature_layout import FLOAT_BYTES, MAX_FEATURES, MAX_MEAN, MIN_FEATURES, FeatureLayout

MAGIC = b"TFLS"
VERSION = 1
DIGEST_BYTES = 32
MAX_PROTOTYPES = 8
HEADER = struct.Struct("<4sBBBx16s32s32sIf")
SENSITIVITY_LIMITS = (0.0099, 100.01)  # as float32 has them


class LearnedStateError(MalformedError):
    """The bytes are no learned state."""


class ForeignStateError(LearnedStateError):
    """The state was learned by another component, or from other features."""


@dataclass(frozen=True, slots=True)
class LearnedPrototype:
    """One kind of normal; numbers as float32 has them.

    Attributes:
        windows: how many it stands for.
        mean: of each feature.
        variance: of each feature.
    """

    windows: int
    mean: tuple[float, ...]
    variance: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LearnedState:
    """What a device learned.

    Attributes:
        component_id: GUID of the template's component.
        layout_sha256: of the feature layout, lower-case hex.
        template_sha256: of the template, lower-case hex.
        features: of a window.
        windows: learned on the device.
        sensitivity: in force.
        prototypes: kinds of normal.
    """

    component_id: str
    layout_sha256: str
    template_sha256: str
    features: int
    windows: int
    sensitivity: float
    prototypes: tuple[LearnedPrototype, ...]


def state_bytes(*, features: int, prototypes: int) -> int:
    """Return the length of a state."""
    return HEADER.size + prototypes * FLOAT_BYTES * (1 + 2 * features) + DIGEST_BYTES


MAX_STATE_BYTES = state_bytes(features=MAX_FEATURES, prototypes=MAX_PROTOTYPES)


def encode_state(state: LearnedState) -> bytes:
    """Lay a state out."""
    header = HEADER.pack(
        MAGIC,
        VERSION,
        state.features,
        len(state.prototypes),
        uuid.UUID(state.component_id).bytes_le,
        bytes.fromhex(state.layout_sha256),
        bytes.fromhex(state.template_sha256),
        state.windows,
        state.sensitivity,
    )
    counts = struct.pack(f"<{len(state.prototypes)}I", *(each.windows for each in state.prototypes))
    numbers = [*(n for each in state.prototypes for n in each.mean)]
    numbers += [n for each in state.prototypes for n in each.variance]
    body = header + counts + struct.pack(f"<{len(numbers)}f", *numbers)
    return body + hashlib.sha256(body).digest()


def parse_state(unverified: bytes) -> LearnedState:
    """Take a state apart.

    Raises:
        LearnedStateError: one of the checks.
    """
    # Step 1: length.
    if not HEADER.size + DIGEST_BYTES <= len(unverified) <= MAX_STATE_BYTES:
        raise LearnedStateError(
            f"learned state: expected {HEADER.size + DIGEST_BYTES} to {MAX_STATE_BYTES} bytes, found {len(unverified)}"
        )
    magic, version, features, prototypes, component, layout, template, windows, sensitivity = HEADER.unpack_from(
        unverified
    )
    # Step 2: magic and version.
    if (magic, version, unverified[7]) != (MAGIC, VERSION, 0):
        raise LearnedStateError(f"learned state: expected {MAGIC!r} version {VERSION}, found {magic!r} {version}")
    # Step 3: counts.
    _check_counts(len(unverified), features=features, prototypes=prototypes)
    # Step 4: digest.
    if hashlib.sha256(unverified[:-DIGEST_BYTES]).digest() != unverified[-DIGEST_BYTES:]:
        raise LearnedStateError("learned state: expected the SHA-256 of its bytes at its end, found another")
    # Step 5: numbers.
    if not SENSITIVITY_LIMITS[0] <= sensitivity <= SENSITIVITY_LIMITS[1]:
        raise LearnedStateError(f"learned state: expected a sensitivity of 0.01 to 100, found {sensitivity:g}")
    return LearnedState(
        component_id=str(uuid.UUID(bytes_le=component)),
        layout_sha256=layout.hex(),
        template_sha256=template.hex(),
        features=features,
        windows=windows,
        sensitivity=sensitivity,
        prototypes=_prototypes(unverified, features=features, prototypes=prototypes),
    )


def require_layout(state: LearnedState, *, component_id: str, layout: FeatureLayout) -> None:
    """Refuse a state that another component learned, or from other features.

    Raises:
        ForeignStateError: says what is different.
    """
    if state.component_id != component_id:
        raise ForeignStateError(f"learned state: expected one of component {component_id}, found {state.component_id}")
    if (state.layout_sha256, state.features) != (layout.sha256, layout.features):
        raise ForeignStateError(
            f"learned state: expected features by layout {layout.sha256[:12]}…, found {state.layout_sha256[:12]}…"
        )


def _check_counts(length: int, *, features: int, prototypes: int) -> None:
    is_bounded = MIN_FEATURES <= features <= MAX_FEATURES and prototypes <= MAX_PROTOTYPES
    if not is_bounded or length != state_bytes(features=features, prototypes=prototypes):
        raise LearnedStateError(
            f"learned state: expected as many bytes as its counts say, found {length} "
            f"for {prototypes} prototypes of {features} features"
        )


def _prototypes(content: bytes, *, features: int, prototypes: int) -> tuple[LearnedPrototype, ...]:
    counts = struct.unpack_from(f"<{prototypes}I", content, HEADER.size)
    numbers = struct.unpack_from(f"<{2 * prototypes * features}f", content, HEADER.size + prototypes * FLOAT_BYTES)
    rows = [numbers[start : start + features] for start in range(0, len(numbers), features)]
    means, variances = rows[:prototypes], rows[prototypes:]
    _check_numbers(counts, means, variances)
    return tuple(map(LearnedPrototype, counts, means, variances))


def _check_numbers(
    counts: Sequence[int], means: Sequence[tuple[float, ...]], variances: Sequence[tuple[float, ...]]
) -> None:
    if not all(counts):
        raise LearnedStateError("learned state: expected prototypes of at least one window, found one of none")
    # A NaN is neither below nor above anything.
    if not all(abs(number) <= MAX_MEAN for row in means for number in row):
        raise LearnedStateError(f"learned state: expected means within ±{MAX_MEAN:g}, found another")
    if not all(0 <= number <= MAX_MEAN**2 for row in variances for number in row):
        raise LearnedStateError(f"learned state: expected variances of 0 to {MAX_MEAN**2:g}, found another")
