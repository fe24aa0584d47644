from tiny_runs import (  # noqa: F401 (fixtures)
    assert_same_weights,
    dataset,
    launch,
    make,
    no_stopped_training,
    one_thread,
    records,
)
