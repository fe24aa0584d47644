"""A training set as raw pixels, packed once and read at random.

A pack is a folder (or the same files in a store, see sdpose.pack_store):

    shard-00000.bin ...  the photos as the exact pipeline decodes them, (height, width, RGB) uint8,
                         one behind the other, some 16 MiB a shard
    images.npy           one row per photo: shard, offset (bytes), width, height
    persons.npy          one row per person to train on: photo, annotation id, box, joints
    manifest.json        format, key, and the SHA-256 of every file; written last

It depends on the training annotations and photos alone, so that every experiment on a dataset
shares one pack. Neither the index nor the pixels are held in memory: the index is mapped, and the
rows of pixels that a crop needs are read when it needs them.
"""

from sdpose.data.pack.reader import Pack, open_pack

__all__ = ["Pack", "open_pack"]
