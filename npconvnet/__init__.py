"""npconvnet: a convolutional network whose every forward and backward is written out by hand."""
