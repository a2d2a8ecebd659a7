"""Hand-written CUDA kernels: each `X.py` here launches `X.cu`, and `X.cuh` are what several of them share.

A function that has the stem and the name of one in `kernels/cpu` is picked for CuPy arrays (see `npconvnet.kernels`):
these are plain kernels on float32, to be read first. The fast ones for tensor cores, conv2d_tensor_core.cu and what
goes with it (lrn_max_pool2d.cu, space_to_depth.cu), are called by `npconvnet.fused_layers`.
"""
