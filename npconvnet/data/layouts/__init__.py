"""What the layouts of ILSVRC are made of: images in folders and tars, the files beside them, and annotations."""
