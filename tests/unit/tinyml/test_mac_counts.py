"""Multiply-accumulates by class of operator."""

import pytest

from tinyml.errors import ModelFormatError
from tinyml.macs import MacCounts, OperatorShapes, count_macs


def test_each_class_is_counted_by_itself() -> None:
    """A convolution with few input channels is told apart from one with many."""
    counts = count_macs(
        [
            OperatorShapes("CONV_2D", ((1, 8, 8, 3), (16, 3, 3, 3), (16,)), ((1, 4, 4, 16),)),
            OperatorShapes("CONV_2D", ((1, 4, 4, 16), (32, 1, 1, 16), (32,)), ((1, 4, 4, 32),)),
            OperatorShapes("DEPTHWISE_CONV_2D", ((1, 4, 4, 32), (1, 3, 3, 32), (32,)), ((1, 4, 4, 32),)),
            OperatorShapes("FULLY_CONNECTED", ((1, 64), (10, 64), ()), ((1, 10),)),
            OperatorShapes("SOFTMAX", ((1, 10),), ((1, 10),)),
        ]
    )
    assert counts == MacCounts(
        convolution=4 * 4 * 32 * 16, few_channels=4 * 4 * 16 * 27, depthwise=4 * 4 * 32 * 9, fully_connected=640
    )
    assert counts.total == 8192 + 6912 + 4608 + 640


def test_what_is_not_counted_is_named() -> None:
    """A recurrent layer does arithmetic that the count leaves out, and says so."""
    assert count_macs([OperatorShapes("SVDF", (), ()), OperatorShapes("SVDF", (), ())]).uncounted == ("SVDF",)


@pytest.mark.parametrize("inputs", [(), ((1, 4),), ((1, 4), (4,)), ((1, 4), ())])
def test_operator_without_its_tensors_is_malformed(inputs: tuple[tuple[int, ...], ...]) -> None:
    """A convolution without a filter of four axes is refused, naming what was found."""
    with pytest.raises(ModelFormatError, match="CONV_2D: expected a filter and an output"):
        count_macs([OperatorShapes("CONV_2D", inputs, ((1, 1, 1, 1),))])
