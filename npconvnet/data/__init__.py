"""Pictures in, batches out: ILSVRC layouts, decoding, augmentation, the toy set and the loader."""
