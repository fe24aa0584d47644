"""In the words of mmpose 0.x: an SDPose-S-V2 on CrowdPose, as its users write them."""

_base_ = ["../_base_/datasets/crowdpose.py"]

date = "1118"
exp_name = f"sdpose_s_v2_crowdpose_{date}"
work_dir = f"./work_dirs/{exp_name}"
log_level = "INFO"
load_from = None
dist_params = dict(backend="nccl")
workflow = [("train", 1)]
checkpoint_config = dict(interval=10, max_keep_ckpts=6, save_last=True)
evaluation = dict(interval=10, metric="mAP", save_best="AP", rule="greater")
optimizer = dict(type="Adam", lr=1e-3)
optimizer_config = dict(grad_clip=None)
lr_config = dict(
    policy="step", warmup="linear", warmup_iters=900, warmup_ratio=0.001, step=[220, 290]
)
total_epochs = 300
log_config = dict(interval=50, hooks=[dict(type="TextLoggerHook")])

channel_cfg = dict(
    num_output_channels=14,
    dataset_joints=14,
    dataset_channel=[list(range(14))],
    inference_channel=list(range(14)),
)
model = dict(
    type="TopDown",
    backbone=dict(type="StemNet"),
    keypoint_head=dict(
        type="SDPoseHead",
        in_channels=256,
        num_joints=channel_cfg["num_output_channels"],
        loss_keypoint=dict(type="JointsMSELoss", use_target_weight=True),
        loss_vis_token_dist=dict(type="TokenDistilLoss", loss_weight=5e-6),
        loss_kpt_token_dist=dict(type="TokenDistilLoss", loss_weight=5e-6),
        tokenpose_cfg=dict(
            feature_size=[64, 48],
            patch_size=[2, 2],
            dim=256,
            depth=12,
            heads=8,
            mlp_ratio=3,
            heatmap_size=[64, 48],
            pos_embedding_type="sine-full",
            apply_init=True,
            cycle_num=2,
        ),
    ),
    train_cfg=dict(),
    test_cfg=dict(
        flip_test=True, post_process="unbiased", shift_heatmap=True, modulate_kernel=11
    ),
)
data_root = "/dockerdata/crowdpose"
data_cfg = dict(
    image_size=[192, 256],
    heatmap_size=[48, 64],
    num_output_channels=channel_cfg["num_output_channels"],
    num_joints=channel_cfg["dataset_joints"],
    dataset_channel=channel_cfg["dataset_channel"],
    inference_channel=channel_cfg["inference_channel"],
    crowd_matching=False,
    soft_nms=False,
    nms_thr=1.0,
    oks_thr=0.9,
    vis_thr=0.2,
    use_gt_bbox=False,
    det_bbox_thr=0.0,
    bbox_file=f"{data_root}/annotations/det_for_crowd_test_0.1_0.5.json",
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="TopDownGetBboxCenterScale", padding=1.25),
    dict(type="TopDownRandomFlip", flip_prob=0.5),
    dict(type="TopDownHalfBodyTransform", num_joints_half_body=6, prob_half_body=0.3),
    dict(type="TopDownGetRandomScaleRotation", rot_factor=45, scale_factor=0.35),
    dict(type="TopDownAffine"),
    dict(type="ToTensor"),
    dict(type="NormalizeTensor", mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
    dict(type="TopDownGenerateTarget", sigma=2, unbiased_encoding=True),
    dict(type="Collect", keys=["img", "target", "target_weight"], meta_keys=["image_file"]),
]
val_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="TopDownGetBboxCenterScale", padding=1.25),
    dict(type="TopDownAffine"),
    dict(type="ToTensor"),
    dict(type="NormalizeTensor", mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
    dict(type="Collect", keys=["img"], meta_keys=["image_file", "center"]),
]
val = dict(
    type="TopDownCrowdPoseDataset",
    ann_file=f"{data_root}/annotations/mmpose_crowdpose_test.json",
    img_prefix=f"{data_root}/images/",
    data_cfg=data_cfg,
    pipeline=val_pipeline,
    dataset_info={{_base_.dataset_info}},
)
data = dict(
    samples_per_gpu=64,
    workers_per_gpu=2,
    val_dataloader=dict(samples_per_gpu=32),
    test_dataloader=dict(samples_per_gpu=32),
    train=dict(
        type="TopDownCrowdPoseDataset",
        ann_file=f"{data_root}/annotations/mmpose_crowdpose_trainval.json",
        img_prefix=f"{data_root}/images/",
        data_cfg=data_cfg,
        pipeline=train_pipeline,
        dataset_info={{_base_.dataset_info}},
    ),
    val=val,
    test=dict(**val),
)
