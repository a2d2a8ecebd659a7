"""Figures as PNG files, one module for each kind of result. The only modules that import matplotlib."""
