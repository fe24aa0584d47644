"""Downloads COCO 2017, checks it and unpacks it."""
