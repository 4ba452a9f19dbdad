"""Models as firmware: C generated from a .tflite, built for a Cortex-M4 with the memory map of the MT3620.

`native.graph` reads the model, `native.memory` plans its arena, `native.lowering` turns operators into tables,
`native.source` writes the C, `native.toolchain` compiles and links it. The kernels are hand-written C, in firmware/.
Nothing here runs a model; `device_sim.emulation` does.
"""
