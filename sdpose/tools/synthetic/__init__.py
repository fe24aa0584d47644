"""A small COCO dataset, drawn."""
