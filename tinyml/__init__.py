"""Models: run, measure and judge them.

TensorFlow Lite Micro (TFLM) runs in child processes, because a corrupted model may kill or hang the process that
holds it. Everything but inference works without it: the facts of a model, its multiply-accumulates, the modelled
latency of a Cortex-M4, the fit check.
"""
