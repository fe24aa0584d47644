"""Step 0 on a cluster: the preflight checks."""

from kfp import dsl

from components import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def preflight(experiment: str, cluster: str, code_version: str) -> None:
    """Fails with the list of all problems, each with its remedy.

    Args:
        experiment: The resolved experiment, as `sdpose config show` prints it.
        cluster: The cluster profile as JSON (components.profile.dump_cluster).
        code_version: Of the sources that the run was submitted from; empty: the image's, whatever.
    """
    from components.profile import parse_cluster
    from pipelines.cluster.preflight import check_in_cluster
    from sdpose.config import parse_experiment
    from sdpose.errors import user_errors

    with user_errors():
        report = check_in_cluster(
            parse_experiment(experiment), parse_cluster(cluster), code_version
        )
        print(report.raise_if_problems())
