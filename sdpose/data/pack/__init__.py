"""A training set as raw pixels, packed once and read in random order.

A pack is a folder (or the same files in a store, see sdpose.pack_store):

    shard-00000.bin ...  the photos as the exact pipeline decodes them, (height, width, RGB) uint8,
                         concatenated, about 16 MiB per shard
    images.npy           one row per photo: shard, offset (bytes), width, height
    persons.npy          one row per person to train on: photo, annotation id, box, joints
    manifest.json        format, key, and the SHA-256 of every file; written last

A pack depends only on the training annotations and photos, so all experiments on a dataset share
it. Neither index nor pixels are held in memory: the index is memory-mapped, and a crop reads the
rows of pixels that it needs.
"""

from sdpose.data.pack.reader import Pack, open_pack

__all__ = ["Pack", "open_pack"]
