"""In the words of mmpose 0.x: a model that trains in seconds, on data below data/coco."""

_base_ = "child.py"
exp_name = "their_config"
total_epochs = 1
sizes = dict(image_size=[48, 64], heatmap_size=[12, 16], use_gt_bbox=True, bbox_file="")
model = dict(
    keypoint_head=dict(
        tokenpose_cfg=dict(
            feature_size=[16, 12], heatmap_size=[16, 12], patch_size=[8, 6], dim=16, depth=1, heads=2
        )
    )
)
val = dict(
    ann_file="data/coco/annotations/person_keypoints_val2017.json",
    img_prefix="data/coco/val2017/",
    data_cfg=sizes,
)
data = dict(
    samples_per_gpu=4,
    workers_per_gpu=0,
    persistent_workers=False,
    train=dict(
        ann_file="data/coco/annotations/person_keypoints_train2017.json",
        img_prefix="data/coco/train2017/",
        data_cfg=sizes,
    ),
    val=val,
    test=val,
)
