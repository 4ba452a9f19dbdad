"""From photos to tensors, and from outputs to scores."""

import numpy as np
import pytest

from protocol.model import InputContract
from tinyml.errors import InputMismatchError, PhotoMissingError
from tinyml.flatbuffer import Quantisation
from tinyml.photos import PHOTO_NAMES, load_photo, load_photos
from tinyml.preprocess import LabelScore, Window, dequantise, label_scores, photo_tensor, softmax

_PERSON = InputContract(shape=(1, 96, 96, 3), dtype="float32")
_IMAGE = InputContract(shape=(1, 32, 32, 3), dtype="int8", offset=-128.0)
_HALVED = InputContract(shape=(1, 48, 40, 3), dtype="int8", scale=0.5019608, offset=-3.7)


def test_photos_are_read_only_rgb_and_say_what_to_expect() -> None:
    """Every photo of the demo is in the installed wheel."""
    photos = load_photos()
    assert tuple(photo.name for photo in photos) == PHOTO_NAMES
    for photo in photos:
        assert photo.pixels.ndim == 3
        assert photo.pixels.shape[2] == 3
        assert photo.pixels.dtype == np.uint8
        assert not photo.pixels.flags.writeable
        assert photo.expected
    assert {photo.name for photo in photos if photo.shows_person} == {"astronaut", "camera-man"}


def test_unknown_photo_is_refused() -> None:
    """The message lists the photos there are."""
    with pytest.raises(PhotoMissingError, match=r"expected one of astronaut, .* found unicorn"):
        load_photo("unicorn")


def test_flat_photo_keeps_its_values_in_either_scaling() -> None:
    """Pixel 200 is 200.0 for the person model and 72 for the image model."""
    photo = np.full((50, 70, 3), 200, np.uint8)
    person, image = photo_tensor(photo, _PERSON), photo_tensor(photo, _IMAGE)
    assert np.array_equal(person, np.full((1, 96, 96, 3), 200.0))
    assert np.array_equal(image, np.full((1, 32, 32, 3), 72))
    assert [person.dtype.name, image.dtype.name] == ["float32", "int8"]


def test_extremes_do_not_wrap_around() -> None:
    """Black is -128 and white 127; a scaling beyond the type saturates."""
    photo = np.zeros((32, 32, 3), np.uint8)
    photo[16:] = 255
    assert (photo_tensor(photo, _IMAGE).min(), photo_tensor(photo, _IMAGE).max()) == (-128, 127)
    doubled = InputContract(shape=(1, 32, 32, 3), dtype="int8", scale=2.0)
    assert photo_tensor(photo, doubled).max() == 127


@pytest.mark.parametrize("contract", [_PERSON, _IMAGE, _HALVED])
def test_pixels_are_scaled_value_by_value(contract: InputContract) -> None:
    """Each byte of the tensor is what the contract's arithmetic in float32 gives."""
    _, height, width, _ = contract.shape
    photo = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    values = photo.astype(np.float32) * np.float32(contract.scale) + np.float32(contract.offset)
    if contract.dtype == "int8":
        values = np.clip(np.rint(values), -128, 127)
    assert photo_tensor(photo, contract).tobytes() == values.astype(contract.dtype).tobytes()


def test_window_shows_its_part_only() -> None:
    """A window over the white half sees nothing of the black one."""
    photo = np.zeros((64, 64, 3), np.uint8)
    photo[:, 32:] = 255
    assert photo_tensor(photo, _PERSON, window=Window(32, 0, 32, 64)).min() == 255.0


def test_same_photo_gives_the_same_bytes() -> None:
    """Preprocessing is deterministic."""
    cat = load_photo("cat").pixels
    assert photo_tensor(cat, _IMAGE).tobytes() == photo_tensor(cat.copy(), _IMAGE).tobytes()


@pytest.mark.parametrize("window", [Window(-1, 0, 5, 5), Window(0, 0, 65, 5), Window(0, 60, 5, 5), Window(3, 3, 0, 5)])
def test_window_outside_the_photo_is_refused(window: Window) -> None:
    """A camera cannot look past the edge."""
    with pytest.raises(InputMismatchError, match=r"expected a part of 64 × 64"):
        photo_tensor(np.zeros((64, 64, 3), np.uint8), _PERSON, window=window)


def test_wrong_photo_or_contract_is_refused() -> None:
    """Grey or float photos, and contracts of other inputs."""
    with pytest.raises(InputMismatchError, match=r"photo: expected uint8 \(height, width, 3\)"):
        photo_tensor(np.zeros((8, 8), np.uint8), _PERSON)
    with pytest.raises(InputMismatchError, match=r"photo: expected uint8 .* found float32"):
        photo_tensor(np.zeros((8, 8, 3), np.float32), _PERSON)
    with pytest.raises(InputMismatchError, match="contract: expected an input of shape"):
        photo_tensor(np.zeros((8, 8, 3), np.uint8), InputContract(shape=(1, 640), dtype="float32"))


def test_integers_are_dequantised_and_floats_stay() -> None:
    """Real = scale times stored minus zero point."""
    stored = np.array([-128, 127], np.int8)
    assert dequantise(stored, Quantisation(1 / 256, -128)).tolist() == [0.0, 255 / 256]
    assert dequantise(np.array([0.5], np.float32), None).tolist() == [0.5]


def test_scores_are_sorted_and_need_one_label_each() -> None:
    """The likeliest label comes first."""
    assert label_scores(np.array([[0.1, 0.9]]), ("a", "b"))[0] == LabelScore("b", 0.9)
    with pytest.raises(InputMismatchError, match="expected 2, one per output value, found 1"):
        label_scores(np.array([[0.1, 0.9]]), ("a",))


def test_softmax_sums_to_one_and_survives_large_logits() -> None:
    """Logits of a thousand do not overflow."""
    probabilities = softmax(np.array([[1000.0, 1000.0, -1000.0]]))
    assert probabilities.tolist() == [[0.5, 0.5, 0.0]]
