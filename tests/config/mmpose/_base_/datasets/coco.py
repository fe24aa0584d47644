dataset_info = dict(dataset_name="coco", sigmas=[0.026, 0.025], keypoint_info={0: dict(name="nose")})
