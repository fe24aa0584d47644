"""In the words of mmpose 0.x: CrowdPose's 14 joints."""

names = [
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
    *("top_head", "neck"),
]
swaps = [names[i + 1 - 2 * (i % 2)] for i in range(12)] + ["", ""]
lower = range(6, 12)
dataset_info = dict(
    dataset_name="crowdpose",
    paper_info=dict(author="Li, Jiefeng and others", title="CrowdPose", year="2019"),
    keypoint_info={
        i: dict(
            name=names[i],
            id=i,
            color=[0, 255, 0],
            type="lower" if i in lower else "upper",
            swap=swaps[i],
        )
        for i in range(14)
    },
    skeleton_info={
        0: dict(link=("left_ankle", "left_knee"), id=0, color=[0, 255, 0]),
        1: dict(link=("top_head", "neck"), id=1, color=[51, 153, 255]),
    },
    joint_weights=[0.2, 0.2, 0.2, 1.3, 1.5, 0.2, 1.3, 1.5, 0.2, 0.2, 0.5, 0.2, 0.2, 0.5],
    sigmas=[
        *[0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087],
        *[0.089, 0.089, 0.079, 0.079],
    ],
)
