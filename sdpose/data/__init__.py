"""COCO to training samples: annotations, checks, augmentation and the loader."""
