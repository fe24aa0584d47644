"""In the words of mmpose 0.x: an SDPose-S-V1 with masked distillation, as its users write them."""

_base_ = ["../_base_/datasets/coco.py"]

date = "1030"
exp_name = f"sdpose_s_v1_{date}"
work_dir = f"./work_dirs/{exp_name}"
load_from = None
resume_from = None
log_level = "INFO"
dist_params = dict(backend="nccl")
workflow = [("train", 1)]
checkpoint_config = dict(interval=10, max_keep_ckpts=15, save_last=True)
evaluation = dict(interval=5, metric="mAP", save_best="AP", rule="greater")
optimizer = dict(type="AdamW", lr=1.2e-3, betas=(0.9, 0.999))
optimizer_config = dict(grad_clip=dict(max_norm=1.0, norm_type=2))
lr_config = dict(policy="step", warmup="linear", warmup_iters=1500, warmup_ratio=0.001, step=100)
total_epochs = 400
log_config = dict(interval=50, hooks=[dict(type="TextLoggerHook"), dict(type="WandbLoggerHook")])

joints = list(range(17))
channel_cfg = dict(num_output_channels=17, dataset_joints=17, dataset_channel=[joints])
mask_ratio = 0.5
token_loss = dict(
    type="MaskedTokenDistilLoss", loss_weight=1e-5, mask_ratio=mask_ratio, mask_strategy="importance"
)
model = dict(
    type="TopDown",
    backbone=dict(type="StemNet"),
    keypoint_head=dict(
        type="SDPoseHead",
        in_channels=256,
        num_joints=channel_cfg["num_output_channels"],
        loss_keypoint=dict(type="JointsMSELoss", use_target_weight=True),
        loss_vis_token_dist=token_loss,
        loss_kpt_token_dist=dict(type="SimpleConsistencyLoss", loss_weight=2e-5, clamp_max=10.0),
        tokenpose_cfg=dict(
            feature_size=[64, 48],
            patch_size=[4, 3],
            dim=192,
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
data_root = "/dockerdata/coco/"
data_cfg = dict(
    image_size=[192, 256],
    heatmap_size=[48, 64],
    num_output_channels=17,
    num_joints=17,
    dataset_channel=channel_cfg["dataset_channel"],
    inference_channel=joints,
    soft_nms=False,
    nms_thr=1.0,
    oks_thr=0.9,
    vis_thr=0.2,
    use_gt_bbox=False,
    det_bbox_thr=0.0,
    bbox_file="/dockerdata/coco/person_detection_results/"
    "COCO_val2017_detections_AP_H_56_person.json",
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="TopDownGetBboxCenterScale", padding=1.25),
    dict(type="TopDownRandomShiftBboxCenter", shift_factor=0.2, prob=0.5),
    dict(type="TopDownRandomFlip", flip_prob=0.5),
    dict(type="TopDownGetRandomScaleRotation", rot_factor=60, scale_factor=0.45),
    dict(type="TopDownAffine"),
    dict(type="PhotometricDistortion", brightness_delta=50),
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
    type="TopDownCocoDataset",
    ann_file=f"{data_root}/annotations/person_keypoints_val2017.json",
    img_prefix=f"{data_root}/val2017/",
    data_cfg=data_cfg,
    pipeline=val_pipeline,
    dataset_info={{_base_.dataset_info}},
)
data = dict(
    samples_per_gpu=128,
    workers_per_gpu=4,
    persistent_workers=True,
    val_dataloader=dict(samples_per_gpu=32),
    test_dataloader=dict(samples_per_gpu=32),
    train=dict(
        type="TopDownCocoDataset",
        ann_file=f"{data_root}/annotations/person_keypoints_train2017.json",
        img_prefix=f"{data_root}/train2017/",
        data_cfg=data_cfg,
        pipeline=train_pipeline,
        dataset_info={{_base_.dataset_info}},
    ),
    val=val,
    test=dict(**val),
)
