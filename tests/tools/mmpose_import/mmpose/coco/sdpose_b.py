_base_ = "sdpose_s_v1_maskedkd.py"
exp_name = "imported_b"
work_dir = None


def_stage = dict(num_modules=1)
model = dict(
    pretrained="pretrained_model/hrnet/hrnet_w32-36af842e.pth",
    backbone=dict(
        _delete_=True,
        type="HRNet_3stage",
        in_channels=3,
        extra=dict(
            stage1=dict(
                num_branches=1, block="BOTTLENECK", num_blocks=(4,), num_channels=(32,), **def_stage
            ),
            stage2=dict(
                num_branches=2, block="BASIC", num_blocks=(4, 4), num_channels=(32, 64), **def_stage
            ),
            stage3=dict(
                num_modules=4,
                num_branches=3,
                block="BASIC",
                num_blocks=(4, 4, 2),
                num_channels=(32, 64, 128),
            ),
        ),
    ),
    keypoint_head=dict(in_channels=32),
)
