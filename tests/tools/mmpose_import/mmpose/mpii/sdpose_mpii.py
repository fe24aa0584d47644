"""In the words of mmpose before 0.15: MPII by the type of the dataset, without `dataset_info`."""

_base_ = "../crowdpose/sdpose_s_v2.py"
exp_name = "sdpose_s_v2_mpii"
work_dir = None
evaluation = dict(interval=10, metric="PCKh", key_indicator="PCKh", save_best=None)
joints = list(range(16))
channels = dict(
    num_output_channels=16, num_joints=16, dataset_channel=joints, inference_channel=joints
)
model = dict(keypoint_head=dict(num_joints=16))
data_root = "data/mpii"
data_cfg = dict(
    _delete_=True,
    image_size=[192, 256],
    heatmap_size=[48, 64],
    use_gt_bbox=True,
    bbox_file=None,
    **channels,
)
val = dict(
    type="TopDownMpiiDataset",
    ann_file=f"{data_root}/annotations/mpii_val.json",
    img_prefix=f"{data_root}/images/",
    dataset_info=None,
    data_cfg=data_cfg,
)
data = dict(
    train=dict(
        type="TopDownMpiiDataset",
        ann_file=f"{data_root}/annotations/mpii_train.json",
        img_prefix=f"{data_root}/images/",
        dataset_info=None,
        data_cfg=data_cfg,
    ),
    val=val,
    test=val,
)
