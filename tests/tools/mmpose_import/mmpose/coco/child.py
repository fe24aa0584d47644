_base_ = "sdpose_s_v1_maskedkd.py"
exp_name = "{{ fileBasenameNoExtension }}_exp"
work_dir = None
model = dict(
    keypoint_head=dict(
        loss_kpt_token_dist=dict(_delete_=True, type="TokenDistilLoss", loss_weight=1e-4),
        tokenpose_cfg=dict(cycle_num=3),
    )
)
optimizer = dict(_delete_=True, type="SGD", lr=0.01)
lr_config = dict(
    _delete_=True, policy="CosineAnnealing", warmup=None, min_lr=1e-5
)
log_config = dict(hooks=[dict(type="TextLoggerHook")])
