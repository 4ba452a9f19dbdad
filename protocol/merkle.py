"""The Merkle tree of a transparency log: hashes, and proofs of inclusion and consistency (RFC 6962 §2.1).

    leaf hash  SHA-256(0x00 ‖ entry)
    node hash  SHA-256(0x01 ‖ left ‖ right)
    empty tree SHA-256 of nothing

A proof is made from hashes of complete subtrees, `Node`s, which a caller reads from wherever it keeps the tree: the
root of any range of leaves is folded from those that it consists of. Sizes and indices are bounded by `MAX_SIZE`.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from protocol.errors import MalformedError, ProtocolError

HASH_BYTES = 32
MAX_SIZE = 1 << 62
MAX_PROOF_HASHES = 63  # C2SP tlog-witness: of a tree of fewer than 2^63 leaves
EMPTY_ROOT = hashlib.sha256().digest()


class TreeFormError(MalformedError):
    """A size, an index or a hash is none, or they do not fit together."""


class InclusionError(ProtocolError):
    """The proof does not show that the leaf is in the tree."""


class ConsistencyError(ProtocolError):
    """The proof does not show that the newer tree only adds to the older one."""


@dataclass(frozen=True, slots=True)
class Node:
    """A complete subtree: leaves from `index << height` to `(index + 1) << height`, the last excluded."""

    height: int
    index: int


NodeReader = Callable[[Node], bytes]
"""Returns the hash of a complete subtree, 32 bytes."""
Range = tuple[int, int]
"""Leaves from the first to the second, which is excluded; the first is a multiple of the largest subtree's size."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of an entry as a leaf."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of two subtrees together."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def nodes_of(leaves: Range) -> Iterator[Node]:
    """Return the complete subtrees that a range consists of, left to right: the largest ones first."""
    begin, end = leaves
    while begin < end:
        height = (end - begin).bit_length() - 1
        yield Node(height, begin >> height)
        begin += 1 << height


def range_hash(leaves: Range, read: NodeReader) -> bytes:
    """Return the root of a range of leaves."""
    hashes = [read(node) for node in nodes_of(leaves)]
    if not hashes:
        return EMPTY_ROOT
    root = hashes.pop()
    while hashes:
        root = node_hash(hashes.pop(), root)
    return root


def subtree_hash(hashes: Sequence[bytes]) -> bytes:
    """Return the root of a complete subtree from the hashes below it: 1, 2, 4, … of them."""
    row = list(hashes)
    while len(row) > 1:
        row = [node_hash(left, right) for left, right in list(pairwise(row))[::2]]
    return row[0]


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """Return the ranges whose roots prove a leaf's inclusion, the leaf's sibling first (RFC 6962 §2.1.1).

    Raises:
        TreeFormError: the tree has no leaf of this index.
    """
    if not 0 <= index < size <= MAX_SIZE:
        raise TreeFormError(f"leaf: expected an index below {size}, found {index}")
    ranges, begin, end = list[Range](), 0, size
    while end - begin > 1:
        split = begin + _split(end - begin)
        if index < split:
            ranges.append((split, end))
            end = split
        else:
            ranges.append((begin, split))
            begin = split
    return ranges[::-1]


def consistency_ranges(old_size: int, size: int) -> list[Range]:
    """Return the ranges whose roots prove consistency of two trees (RFC 6962 §2.1.2); none where nothing is to prove.

    Raises:
        TreeFormError: the older tree is larger.
    """
    if not 0 <= old_size <= size <= MAX_SIZE:
        raise TreeFormError(f"tree: expected an older size of at most {size}, found {old_size}")
    if old_size in {0, size}:
        return []
    ranges, begin, end = list[Range](), 0, size
    while end != old_size:
        split = begin + _split(end - begin)
        if old_size <= split:
            ranges.append((split, end))
            end = split
        else:
            ranges.append((begin, split))
            begin = split
    # The root of the older tree itself is known to who asks.
    return ([(begin, end)] if begin else []) + ranges[::-1]


def prove(ranges: Sequence[Range], read: NodeReader) -> list[bytes]:
    """Return the hashes of a proof from its ranges."""
    return [range_hash(leaves, read) for leaves in ranges]


def check_inclusion(leaf: bytes, index: int, proof: Sequence[bytes], *, size: int, root: bytes) -> None:
    """Verify an inclusion proof (RFC 9162 §2.1.3.2, which decides RFC 6962's audit paths).

    Args:
        leaf: its hash, 32 bytes.
        index: of the leaf.
        proof: 32 bytes each, the leaf's sibling first.
        size: of the tree, leaves.
        root: of the tree, 32 bytes.

    Raises:
        TreeFormError: the tree has no leaf of this index, or a hash is none.
        InclusionError: the proof shows another root, or is of another length.
    """
    _check_hashes(leaf, root, *proof)
    expected = len(inclusion_ranges(index, size))
    if len(proof) != expected:
        raise InclusionError(f"inclusion proof: expected {expected} hashes, found {len(proof)}")
    found, position, last = leaf, index, size - 1
    for sibling in proof:
        if position & 1 or position == last:
            found = node_hash(sibling, found)
            while not position & 1:
                position, last = position >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        position, last = position >> 1, last >> 1
    if found != root:
        raise InclusionError(f"inclusion proof: expected root {root.hex()[:16]}…, found {found.hex()[:16]}…")


def check_consistency(proof: Sequence[bytes], *, old_size: int, old_root: bytes, size: int, root: bytes) -> None:
    """Verify a consistency proof (RFC 9162 §2.1.4.2).

    Args:
        proof: 32 bytes each.
        old_size: of the older tree, leaves.
        old_root: of the older tree, 32 bytes.
        size: of the newer tree, leaves.
        root: of the newer tree, 32 bytes.

    Raises:
        TreeFormError: the older tree is larger, or a hash is none.
        ConsistencyError: the proof shows other roots, or is of another length.
    """
    _check_hashes(old_root, root, *proof)
    expected = len(consistency_ranges(old_size, size))
    if len(proof) != expected:
        raise ConsistencyError(f"consistency proof: expected {expected} hashes, found {len(proof)}")
    if old_size == 0:
        _expect(old_root, EMPTY_ROOT, of="older")
    elif old_size == size:
        _expect(root, old_root, of="newer")
    else:
        found_old, found = _both_roots(proof, old_size=old_size, old_root=old_root, size=size)
        _expect(found_old, old_root, of="older")
        _expect(found, root, of="newer")


def _both_roots(proof: Sequence[bytes], *, old_size: int, old_root: bytes, size: int) -> tuple[bytes, bytes]:
    position, last = old_size - 1, size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    path = iter(proof if position else [old_root, *proof])
    found_old = found = next(path)
    for sibling in path:
        if position & 1 or position == last:
            found_old, found = node_hash(sibling, found_old), node_hash(sibling, found)
            while position and not position & 1:
                position, last = position >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        position, last = position >> 1, last >> 1
    return found_old, found


def _expect(found: bytes, expected: bytes, *, of: str) -> None:
    if found != expected:
        raise ConsistencyError(
            f"consistency proof: expected {of} root {expected.hex()[:16]}…, found {found.hex()[:16]}…"
        )


def _check_hashes(*hashes: bytes) -> None:
    for each in hashes:
        if len(each) != HASH_BYTES:
            raise TreeFormError(f"hash: expected {HASH_BYTES} bytes, found {len(each)}")


def _split(size: int) -> int:
    """Return the largest power of two below a size of at least 2."""
    return 1 << (size - 1).bit_length() - 1
