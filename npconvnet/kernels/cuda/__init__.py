"""Hand-written CUDA kernels. Each stem `X.py` here launches `X.cu` under the names that `kernels/cpu/X.py` defines.

A function that stands here is picked for CuPy arrays (see `npconvnet.kernels`); until one does, the definition in
`kernels/cpu` runs on CuPy arrays as it is.
"""
