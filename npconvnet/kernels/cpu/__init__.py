"""The readable definitions, in plain array arithmetic: on NumPy arrays, and on CuPy arrays through the array module."""
