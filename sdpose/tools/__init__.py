"""Beside training: synthetic COCO, fetching COCO, importing mmpose configurations."""
