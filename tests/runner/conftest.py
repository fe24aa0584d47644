from tiny_runs import (  # noqa: F401 (fixtures)
    assert_same_weights,
    dataset,
    launch,
    make,
    one_thread,
    records,
)
