"""Every reader of unverified bytes, fed what hypothesis makes of valid input: only its own errors come out.

`make fuzz` feeds the same targets for longer, guided by coverage.
"""

import json
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.fuzz_certificates import TARGETS as CERTIFICATES
from tests.fuzz.fuzz_csr import TARGETS as CSRS
from tests.fuzz.fuzz_delta import TARGETS as DELTAS
from tests.fuzz.fuzz_evidence import TARGETS as EVIDENCE
from tests.fuzz.fuzz_images import TARGETS as IMAGES
from tests.fuzz.fuzz_learning import TARGETS as LEARNING
from tests.fuzz.fuzz_messages import TARGETS as MESSAGES
from tests.fuzz.fuzz_service import TARGETS as SERVICE
from tests.fuzz.fuzz_voucher import TARGETS as VOUCHERS

TARGETS = {
    target.name: target
    for target in (*EVIDENCE, *CSRS, *VOUCHERS, *MESSAGES, *CERTIFICATES, *IMAGES, *DELTAS, *LEARNING, *SERVICE)
}
CLAIMS = cbor2.loads(next(target for target in EVIDENCE if target.name == "evidence-claims").seeds[0])
EXAMPLES = settings(max_examples=60, deadline=None)

Change = tuple[int, int, bytes]


def changed(seed: bytes, changes: list[Change]) -> bytes:
    """Replace spans: where, how many bytes, by what; positions are taken modulo the length."""
    for position, length, replacement in changes:
        start = position % (len(seed) + 1)
        seed = seed[:start] + replacement + seed[start + length :]
    return seed


CHANGES = st.lists(
    st.tuples(
        st.integers(0, 1 << 16),
        st.sampled_from((0, 1, 2, 4, 16, 200)),
        st.binary(max_size=8) | st.sampled_from((b"\xff" * 8, b"\x80", b"\x00" * 4, b"[" * 200, b"\x9f", b'"\\ud800"')),
    ),
    min_size=1,
    max_size=4,
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(("9999-12-31T23:59:59Z", "0001-01-01T00:00:00-23:59", "AAAA", "=", "\x00", "a" * 128))
)


def trees(*more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Values of the kinds that JSON and CBOR share, and more."""
    return st.recursive(
        st.one_of(LEAVES, *more),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
        max_leaves=6,
    )


@pytest.mark.parametrize("name", list(TARGETS))
def test_valid_input_is_read(name: str) -> None:
    """What the fuzzers start from is valid, so that they begin behind the first checks."""
    assert TARGETS[name].feed(TARGETS[name].seeds[0])


@pytest.mark.parametrize("name", list(TARGETS))
@EXAMPLES
@given(data=st.data())
def test_changed_input_gives_the_targets_own_errors(name: str, data: st.DataObject) -> None:
    """Bytes replaced, left out and put in."""
    target = TARGETS[name]
    target.feed(changed(data.draw(st.sampled_from(target.seeds)), data.draw(CHANGES)))


@pytest.mark.parametrize("name", list(TARGETS))
@EXAMPLES
@given(unverified=st.binary(max_size=200))
def test_random_bytes_give_the_targets_own_errors(name: str, unverified: bytes) -> None:
    """From nothing."""
    TARGETS[name].feed(unverified)


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.seeds[0][:1] == b"{"])
@EXAMPLES
@given(data=st.data())
def test_any_json_value_in_any_field_gives_the_targets_own_errors(name: str, data: st.DataObject) -> None:
    """A document in order but for one field, which may be anything."""
    document = json.loads(TARGETS[name].seeds[0])
    field = data.draw(st.sampled_from((*sorted(document), "more")))
    TARGETS[name].feed(json.dumps(document | {field: data.draw(trees())}).encode())


@EXAMPLES
@given(data=st.data())
def test_any_cbor_value_of_any_claim_gives_the_targets_own_errors(data: st.DataObject) -> None:
    """Claims in order but for one, which may be anything that CBOR can say, tags and undefined included."""
    tags = st.builds(cbor2.CBORTag, st.sampled_from((0, 1, 2, 4, 5, 18, 28, 29, 35, 61, 256)), st.integers(0, 9))
    value = data.draw(trees(st.binary(max_size=70), tags, st.just(cbor2.undefined)))
    claim = data.draw(st.sampled_from((*CLAIMS, 7777, "text")))
    TARGETS["evidence-claims"].feed(cbor2.dumps(CLAIMS | {claim: value}))
