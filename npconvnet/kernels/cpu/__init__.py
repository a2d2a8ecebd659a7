"""The readable definitions, in plain array arithmetic: on NumPy arrays, and on CuPy arrays through the array module.

Beside them stand the fast versions for NumPy arrays: winograd with its tiles, space_to_depth, conv2d_of_few_channels,
conv2d_by_shape, which picks among them, product, and linear_in_parallel.
"""
