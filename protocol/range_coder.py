"""An adaptive binary range coder: what a patch's symbols are written with.

The carryless arithmetic of LZMA's coder (LZMA specification, "Range Decoder"): a 32-bit range is split in proportion
to the probability that a bit is 0, and renewed byte by byte. Each context is one such probability, in 1/65536, which
moves by 1/32 towards what was coded in it. All contexts begin at one half, so coder and decoder need no tables. There
is no window: the decoder's memory is its contexts, 2 bytes each, and three registers.

The coded bytes end with the last bit: the decoder's code is 0 there, and no byte is left (`RangeDecoder.is_finished`).
"""

from array import array
from collections.abc import Callable

CONTEXT_BYTES = 2
REGISTER_BYTES = 8  # of the decoder: range and code
_HALF = 1 << 15
_ONE = 1 << 16
_RATE = 5  # bits by which a probability is divided to move
_TOP = 1 << 24
_FULL = (1 << 32) - 1


class RangeEncoder:
    """Writes bits.

    Args:
        contexts: how many.
    """

    def __init__(self, contexts: int) -> None:
        self._zeros = array("H", [_HALF]) * contexts
        self._low = 0
        self._range = _FULL
        self._output = bytearray()

    def bit(self, context: int, bit: int) -> None:
        """Write one bit in a context."""
        zeros = self._zeros[context]
        bound = (self._range >> 16) * zeros
        if bit:
            self._low += bound
            self._range -= bound
            self._zeros[context] = zeros - (zeros >> _RATE)
        else:
            self._range = bound
            self._zeros[context] = zeros + ((_ONE - zeros) >> _RATE)
        self._renew()

    def even(self, value: int, *, bits: int) -> None:
        """Write a number's low bits, highest first, each as likely as not."""
        for position in range(bits - 1, -1, -1):
            self._range >>= 1
            if value >> position & 1:
                self._low += self._range
            self._renew()

    def finish(self) -> bytes:
        """Return everything that was written; the encoder is used up."""
        for _ in range(4):
            self._shift()
        return bytes(self._output)

    def _renew(self) -> None:
        while self._range < _TOP:
            self._range <<= 8
            self._shift()

    def _shift(self) -> None:
        if self._low > _FULL:
            self._carry()
        self._output.append(self._low >> 24 & 0xFF)
        self._low = (self._low & 0xFF_FFFF) << 8

    def _carry(self) -> None:
        position = len(self._output) - 1
        while self._output[position] == 0xFF:  # noqa: PLR2004 - the largest byte
            self._output[position] = 0
            position -= 1
        self._output[position] += 1


class RangeDecoder:
    """Reads what `RangeEncoder` wrote.

    Args:
        next_byte: gives the next coded byte; what it raises ends the decoding.
        contexts: how many, as when it was written.
    """

    def __init__(self, next_byte: Callable[[], int], *, contexts: int) -> None:
        self._next_byte = next_byte
        self._zeros = array("H", [_HALF]) * contexts
        self._range = _FULL
        self._code = 0
        for _ in range(4):
            self._code = self._code << 8 | next_byte()

    @property
    def is_finished(self) -> bool:
        """Whether what was read is all that was written."""
        return self._code == 0

    def bit(self, context: int) -> int:
        """Read one bit in a context."""
        zeros = self._zeros[context]
        bound = (self._range >> 16) * zeros
        bit = self._code >= bound
        if bit:
            self._code -= bound
            self._range -= bound
            self._zeros[context] = zeros - (zeros >> _RATE)
        else:
            self._range = bound
            self._zeros[context] = zeros + ((_ONE - zeros) >> _RATE)
        while self._range < _TOP:
            self._range <<= 8
            self._code = (self._code << 8 | self._next_byte()) & _FULL  # a wrong code stays in its register
        return bit

    def even(self, *, bits: int) -> int:
        """Read as many bits that are each as likely as not."""
        value = 0
        for _ in range(bits):
            self._range >>= 1
            bit = self._code >= self._range
            self._code -= self._range * bit
            value = value << 1 | bit
            if self._range < _TOP:
                self._range <<= 8
                self._code = (self._code << 8 | self._next_byte()) & _FULL
        return value
