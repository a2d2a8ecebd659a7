"""A data set prepared once: squares of one size in a few large files, which a network can be fed from at full speed.

A folder that `npconvnet prepare` has filled holds

* `train-00000.raw`, …, `validation-00000.raw`, …: the shards. Pictures stand one after the other, in the order of the
  source; uint8 RGB (size, size, 3) each, so that a shard is an array (images, size, size, 3), or JPEG (`.jpegs`);
* `train.safetensors`, `validation.safetensors`: the index, one row a picture (index.py);
* `mean.safetensors`: the mean image of the training set;
* `unreadable.jsonl`: a line for each file of the source that could not be read;
* `shards.json`: what is in the folder, with the size and the checksum of every file above (manifest.py). It is
  written last: a folder without it is not finished (preparing.py).

Checksums are XXH3, 64 bits (xxHash, Y. Collet): of each file, and of each picture, which is compared whenever it is
read.
"""
