"""RFC 6962 trees: proofs against pymerkle, and every way in which one is wrong."""

import hashlib

import pytest
from pymerkle import InmemoryTree  # type: ignore[import-untyped]  # it ships no types

from protocol.merkle import (
    EMPTY_ROOT,
    ConsistencyError,
    InclusionError,
    Node,
    NodeReader,
    TreeFormError,
    check_consistency,
    check_inclusion,
    consistency_ranges,
    inclusion_ranges,
    leaf_hash,
    nodes_of,
    prove,
    range_hash,
    subtree_hash,
)

SIZES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 255, 256, 257]
ENTRIES = [f"entry {number}".encode() for number in range(max(SIZES))]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]


def _read(node: Node) -> bytes:
    return subtree_hash(LEAVES[node.index << node.height : (node.index + 1) << node.height])


READ: NodeReader = _read


def _root(size: int) -> bytes:
    return range_hash((0, size), READ)


@pytest.mark.parametrize("size", SIZES)
def test_root_is_that_of_pymerkle(size: int) -> None:
    """An independent implementation of the same tree."""
    tree = InmemoryTree(algorithm="sha256")
    for entry in ENTRIES[:size]:
        tree.append_entry(entry)
    assert tree.get_root() == _root(size)


def test_root_of_nothing_is_the_hash_of_nothing() -> None:
    """RFC 6962 §2.1."""
    assert _root(0) == EMPTY_ROOT == hashlib.sha256(b"").digest()


@pytest.mark.parametrize("size", SIZES)
def test_every_leaf_is_proven_included(size: int) -> None:
    """And by the same hashes as pymerkle's proof, which its own verifier takes."""
    for index in range(size):
        proof = prove(inclusion_ranges(index, size), READ)
        check_inclusion(LEAVES[index], index, proof, size=size, root=_root(size))


@pytest.mark.parametrize("size", SIZES)
def test_pymerkle_makes_the_same_inclusion_proofs(size: int) -> None:
    """Its path begins with the leaf itself; what follows is ours."""
    tree = InmemoryTree(algorithm="sha256")
    for entry in ENTRIES[:size]:
        tree.append_entry(entry)
    for index in range(size):
        theirs = tree.prove_inclusion(index + 1, size)
        assert [bytes(each) for each in theirs.path[1:]] == prove(inclusion_ranges(index, size), READ)


@pytest.mark.parametrize("size", SIZES)
def test_every_earlier_size_is_proven_consistent(size: int) -> None:
    """From the empty tree to the tree itself."""
    for old_size in range(size + 1):
        proof = prove(consistency_ranges(old_size, size), READ)
        check_consistency(proof, old_size=old_size, old_root=_root(old_size), size=size, root=_root(size))


@pytest.mark.parametrize(("index", "size"), [(0, 1), (3, 7), (6, 7), (99, 100), (0, 256)])
def test_another_leaf_is_not_included(index: int, size: int) -> None:
    """Nor the same leaf at another index, where the path has the same length."""
    proof = prove(inclusion_ranges(index, size), READ)
    with pytest.raises(InclusionError, match="expected root"):
        check_inclusion(bytes(32), index, proof, size=size, root=_root(size))
    for position in range(len(proof)):
        spoilt = [*proof[:position], bytes(32), *proof[position + 1 :]]
        with pytest.raises(InclusionError, match="expected root"):
            check_inclusion(LEAVES[index], index, spoilt, size=size, root=_root(size))


def test_inclusion_proof_of_another_length_is_refused() -> None:
    """Neither shorter nor longer."""
    proof = prove(inclusion_ranges(3, 7), READ)
    for wrong in (proof[:-1], [*proof, bytes(32)]):
        with pytest.raises(InclusionError, match="expected 3 hashes"):
            check_inclusion(LEAVES[3], 3, wrong, size=7, root=_root(7))


@pytest.mark.parametrize(("index", "size"), [(-1, 4), (4, 4), (0, 0), (0, (1 << 62) + 1)])
def test_index_outside_the_tree_is_refused(index: int, size: int) -> None:
    """Before anything is hashed."""
    with pytest.raises(TreeFormError, match="expected an index below"):
        check_inclusion(LEAVES[0], index, [], size=size, root=EMPTY_ROOT)


@pytest.mark.parametrize("hashes", [(b"short", bytes(32), bytes(32)), (bytes(32), bytes(33), bytes(32))])
def test_hash_of_another_length_is_refused(hashes: tuple[bytes, bytes, bytes]) -> None:
    """Leaf, root and path alike."""
    leaf, root, sibling = hashes
    with pytest.raises(TreeFormError, match="expected 32 bytes"):
        check_inclusion(leaf, 0, [sibling], size=2, root=root)


@pytest.mark.parametrize(("old_size", "size"), [(3, 7), (4, 7), (6, 8), (64, 100), (255, 256)])
def test_spoilt_consistency_proof_is_refused(old_size: int, size: int) -> None:
    """Each of its hashes matters, and so do both roots."""
    proof = prove(consistency_ranges(old_size, size), READ)
    roots = {"old_root": _root(old_size), "root": _root(size)}
    for position in range(len(proof)):
        spoilt = [*proof[:position], bytes(32), *proof[position + 1 :]]
        with pytest.raises(ConsistencyError, match=r"expected (older|newer) root"):
            check_consistency(spoilt, old_size=old_size, size=size, **roots)
    for name in roots:
        with pytest.raises(ConsistencyError, match=r"expected (older|newer) root"):
            check_consistency(proof, old_size=old_size, size=size, **{**roots, name: bytes(32)})


def test_consistency_proof_of_another_length_is_refused() -> None:
    """Also where nothing is to prove."""
    with pytest.raises(ConsistencyError, match="expected 0 hashes, found 1"):
        check_consistency([bytes(32)], old_size=0, old_root=EMPTY_ROOT, size=4, root=_root(4))


def test_empty_tree_has_one_root() -> None:
    """Another one is no beginning."""
    with pytest.raises(ConsistencyError, match="expected older root"):
        check_consistency([], old_size=0, old_root=bytes(32), size=4, root=_root(4))


def test_two_trees_of_one_size_are_the_same() -> None:
    """A fork at one size."""
    with pytest.raises(ConsistencyError, match="expected newer root"):
        check_consistency([], old_size=4, old_root=_root(4), size=4, root=bytes(32))


def test_older_tree_is_not_larger() -> None:
    """Consistency goes one way."""
    with pytest.raises(TreeFormError, match="expected an older size of at most 3"):
        check_consistency([], old_size=4, old_root=_root(4), size=3, root=_root(3))


def test_range_consists_of_complete_subtrees() -> None:
    """The largest ones first."""
    assert list(nodes_of((0, 7))) == [Node(2, 0), Node(1, 2), Node(0, 6)]
    assert list(nodes_of((4, 7))) == [Node(1, 2), Node(0, 6)]
