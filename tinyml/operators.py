"""The operators that TFLM has.

Source: python/tflite_micro/python_ops_resolver.cc of tensorflow/tflite-micro, the resolver of the interpreter that
runs in the simulated cores. An interoperability test asks the installed interpreter for every operator of the
schema, so this list cannot fall behind it unnoticed. An operator may still refuse a type or an option; only loading
the model tells.
"""

from collections.abc import Iterable

_TFLM = """
    ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND
    BROADCAST_ARGS BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS CUMSUM
    DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL
    EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND GREATER
    GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG
    LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM
    MIRROR_PAD MUL NEG NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX
    REDUCE_MIN RELU RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT
    SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE
    SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE TRANSPOSE_CONV
    UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE ZEROS_LIKE
    CUSTOM:CIRCULAR_BUFFER CUSTOM:TFLite_Detection_PostProcess
    CUSTOM:SignalDelay CUSTOM:SignalEnergy CUSTOM:SignalFftAutoScale CUSTOM:SignalFramer CUSTOM:SignalIrfft
    CUSTOM:SignalOverlapAdd CUSTOM:SignalRfft CUSTOM:SignalStacker CUSTOM:SignalWindow
"""
_STATEFUL = """
    ASSIGN_VARIABLE CALL_ONCE READ_VARIABLE SVDF UNIDIRECTIONAL_SEQUENCE_LSTM VAR_HANDLE
    CUSTOM:CIRCULAR_BUFFER CUSTOM:SignalDelay CUSTOM:SignalFramer CUSTOM:SignalOverlapAdd CUSTOM:SignalStacker
"""
TFLM_OPERATORS = frozenset(_TFLM.split())
STATEFUL_OPERATORS = frozenset(_STATEFUL.split())


def missing_operators(operators: Iterable[str]) -> tuple[str, ...]:
    """Return the operators that TFLM lacks, sorted, each once."""
    return tuple(sorted(set(operators) - TFLM_OPERATORS))


def stateful_operators(operators: Iterable[str]) -> tuple[str, ...]:
    """Return the operators that carry something from one inference to the next, sorted, each once."""
    return tuple(sorted(set(operators) & STATEFUL_OPERATORS))
