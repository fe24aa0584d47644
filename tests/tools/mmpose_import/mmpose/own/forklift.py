"""In the words of mmpose 0.x: keypoints of one's own, of something that is no person."""

_base_ = "../crowdpose/sdpose_s_v2.py"
exp_name = "forklift"
work_dir = None
joints = list(range(5))
channels = dict(
    num_output_channels=5, num_joints=5, dataset_channel=[joints], inference_channel=joints
)
model = dict(keypoint_head=dict(num_joints=5))
dataset_info = dict(
    _delete_=True,
    dataset_name="forklift",
    paper_info=dict(),
    keypoint_info={
        0: dict(name="mast", id=0, color=[0, 0, 255], type="upper", swap=""),
        1: dict(name="fork_right", id=1, color=[0, 0, 255], type="lower", swap="fork_left"),
        2: dict(name="fork_left", id=2, color=[0, 0, 255], type="lower", swap="fork_right"),
        3: dict(name="wheel_a", id=3, color=[0, 255, 0], type="lower", swap="wheel_b"),
        4: dict(name="wheel_b", id=4, color=[0, 255, 0], type="lower", swap="wheel_a"),
    },
    skeleton_info={
        0: dict(link=("mast", "fork_left"), id=0, color=[0, 255, 0]),
        1: dict(link=("mast", "fork_right"), id=1, color=[0, 255, 0]),
    },
    joint_weights=[1.0] * 5,
    sigmas=[0.05, 0.04, 0.04, 0.06, 0.06],
)
data = dict(
    train=dict(type="TopDownForkliftDataset", data_cfg=channels, dataset_info=dataset_info),
    val=dict(type="TopDownForkliftDataset", data_cfg=channels, dataset_info=dataset_info),
    test=dict(type="TopDownForkliftDataset", data_cfg=channels, dataset_info=dataset_info),
)
