"""The base of every error that tinyml raises; the leaf names the broken rule."""


class TinymlError(Exception):
    """Base: a model, its input or its surroundings broke a rule of tinyml."""


class RuntimeMissingError(TinymlError):
    """The TFLM interpreter is not installed on this machine."""


class ModelFormatError(TinymlError):
    """The bytes are no .tflite model that can be judged: truncated, out of bounds, or not of the expected form."""


class InferenceError(TinymlError):
    """Base: a model gave no answer."""


class InferenceTimeoutError(InferenceError):
    """The model gave no answer before its deadline; the worker that ran it was replaced."""


class InferenceCrashError(InferenceError):
    """The model killed the worker that ran it; the worker was replaced."""


class ModelRejectedError(InferenceError):
    """TFLM does not load the model: an op is missing, the arena is too small, the file is damaged."""


class InvokeFailedError(InferenceError):
    """The model loads, but TFLM reports an error while it runs."""


class InputMismatchError(InferenceError):
    """The input has not the shape or the type that the model, the card or the photo calls for."""


class PoolBusyError(InferenceError):
    """No worker became free in time."""


class PoolClosedError(InferenceError):
    """The pool is closed."""


class FitError(TinymlError):
    """The model does not fit the core."""


class ModelFetchError(TinymlError):
    """A demo model could not be fetched, or is not the pinned one."""


class PhotoMissingError(TinymlError):
    """A demo photo is not among the installed packages."""
