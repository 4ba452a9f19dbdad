"""What may go wrong on the way from a .tflite to a program for a Cortex-M4; a leaf names a rule."""

from tinyml.errors import TinymlError


class NativeError(TinymlError):
    """Base: no program for a Cortex-M4 can be made of the model."""


class UnsupportedOperatorError(NativeError):
    """There is no kernel for an operator of the model, or not for the way that it is used."""


class CompilerMissingError(NativeError):
    """The cross compiler is not installed on this machine."""


class CompilationError(NativeError):
    """The compiler or the linker refused the program."""


class CompilationTimeoutError(NativeError):
    """The compiler was not done in time."""


class OverBudgetError(NativeError):
    """The program needs more flash or memory than the core has."""


class ProgramFormatError(NativeError):
    """The bytes are no program of ours: too short, or a table at its start points elsewhere."""
