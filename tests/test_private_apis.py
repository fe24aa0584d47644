"""The private and undocumented names of other libraries that docs/private-apis.md lists.

After an upgrade a failure here says what to do, before something fails at the user's.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

OURS = ("sdpose", "components", "pipelines", "benchmarks")
PAGE = Path(__file__).parents[1] / "docs" / "private-apis.md"
ROW = re.compile(r"^\| `(?P<name>[^`]+)` \| (?P<files>[^|]+) \| [^|]+ \| (?P<remedy>[^|]+) \|$")
PATH = re.compile(r"\b[\w/]+\.py\b")


def rows() -> dict[str, re.Match[str]]:
    found = filter(None, map(ROW.match, PAGE.read_text(encoding="utf-8").splitlines()))
    return {row["name"]: row for row in found}


def resolve(name: str) -> Any:
    """The object that a dotted name stands for."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def takes(*arguments: Any, **options: Any) -> Callable[[str], None]:
    """Checks that the function, method or class can be called so."""

    def check(name: str) -> None:
        inspect.signature(resolve(name)).bind(*arguments, **options)

    return check


def source_has(*texts: str, of: str = "") -> Callable[[str], None]:
    """Checks the source code: of an attribute that only an instance has, or of who uses it."""

    def check(name: str) -> None:
        source = inspect.getsource(resolve(of or name))
        for text in texts:
            assert text in source, f"{of or name} has no {text!r}"

    return check


def attribute_of(instance: Callable[[], Any]) -> Callable[[str], None]:
    def check(name: str) -> None:
        getattr(instance(), name.rpartition(".")[2])

    return check


def both(*checks: Callable[[str], None]) -> Callable[[str], None]:
    def check(name: str) -> None:
        for each in checks:
            each(name)

    return check


def linear() -> Any:
    return resolve("torch.nn.Linear")(1, 1)


def loader() -> Any:
    return resolve("torch.utils.data.DataLoader")([1])


def monitor(name: str) -> None:
    for method in ("collect_metrics", "aggregate_metrics", "clear_metrics"):
        inspect.signature(getattr(resolve(name), method)).bind("self")


def column(table: str) -> Callable[[str], None]:
    def check(name: str) -> None:
        model = resolve(name.rpartition(".")[0])
        assert model.__tablename__ == table
        assert name.rpartition(".")[2] in model.__table__.columns

    return check


ORCHESTRATOR = "kfp.local.orchestrator.enhanced_dag_orchestrator"
AGENT = "torch.distributed.elastic.agent.server"
CALL = {"_return_http_data_only": True, "_request_timeout": (1, 1), "auth_settings": []}

CHECKS: dict[str, Callable[[str], None]] = {
    "kfp.local.subprocess_task_handler.run_local_subprocess": both(
        takes(["command"], {}),
        source_has("run_local_subprocess(", of="kfp.local.subprocess_task_handler"),
    ),
    f"{ORCHESTRATOR}.ParallelExecutor": both(
        takes(),
        source_has("self.max_workers", "self.conservative_max"),
        source_has("= ParallelExecutor()", of=ORCHESTRATOR),
    ),
    "kfp.dsl.executor_main.executor_main": source_has(
        *("--executor_input", "--function_to_execute", "Looking for component"),
        *("Loading KFP component", "Got executor_input", "Wrote executor output"),
        "Did not write output",
        of="kfp.dsl.executor_main",
    ),
    "kfp.dsl.pipeline_task.PipelineTask.container_spec": source_has(
        "self.container_spec", of="kfp.dsl.pipeline_task.PipelineTask"
    ),
    "kfp.dsl.base_component.BaseComponent": source_has("def pipeline_spec"),
    "kubernetes.client.ApiClient.call_api": takes(
        *("self", "path", "GET"),
        query_params=[],
        header_params={},
        body=None,
        _preload_content=False,
        **CALL,
    ),
    "kubernetes.client.rest.RESTClientObject": both(
        takes("configuration"), source_has("self.pool_manager =")
    ),
    "kubernetes.client.Configuration.get_api_key_with_prefix": both(
        takes("self", "authorization"),
        source_has(
            "self.get_api_key_with_prefix(", of="kubernetes.client.Configuration.auth_settings"
        ),
    ),
    "kubernetes.config.kube_config.KubeConfigMerger": both(
        takes("path"), source_has("def config(self)")
    ),
    "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION": resolve,
    "torch.distributed.launcher.api.LocalElasticAgent": source_has(
        "= LocalElasticAgent(", of="torch.distributed.launcher.api"
    ),
    f"{AGENT}.local_elastic_agent.LocalElasticAgent._monitor_workers": takes("self", "group"),
    f"{AGENT}.api.SimpleElasticAgent._remaining_restarts": source_has(
        "if self._remaining_restarts > 0", of=f"{AGENT}.api.SimpleElasticAgent"
    ),
    "torch.distributed.run.get_args_parser": takes(),
    "torch.distributed.run.run": takes("args"),
    "torch.distributed.rendezvous.rendezvous": takes("env://", timeout=1),
    "torch._utils.ExceptionWrapper": takes((None, None, None), where="here"),
    "torch.utils.data.DataLoader._iterator": attribute_of(loader),
    "torch.utils.data.dataloader._MultiProcessingDataLoaderIter._shutdown_workers": takes("self"),
    "torch._foreach_lerp_": attribute_of(lambda: resolve("torch")),
    "torch.autograd.Variable._execution_engine": both(
        attribute_of(lambda: resolve("torch.autograd").Variable),
        lambda name: resolve(f"{name}.queue_callback") and None,
    ),
    "torch.nn.Module._parameters": attribute_of(linear),
    "torch.nn.Module._buffers": attribute_of(linear),
    "torch.utils.flop_counter.FlopCounterMode": takes(display=False),
    "torch.utils.tensorboard.summary.scalar": takes("name", 1.0),
    "torch.utils._python_dispatch.TorchDispatchMode": source_has("def __torch_dispatch__"),
    "numpy._core.multiarray.scalar": resolve,
    "multiprocessing.queues.Queue._on_queue_feeder_error": both(
        takes("error", "item"),
        source_has("onerror(", of="multiprocessing.queues.Queue._feed"),
    ),
    "multiprocessing.util.is_exiting": takes(),
    "click.Command.make_parser": takes("self", "context"),
    "mlflow.system_metrics.metrics.cpu_monitor.CPUMonitor": monitor,
    "mlflow.system_metrics.metrics.disk_monitor.DiskMonitor": monitor,
    "mlflow.system_metrics.metrics.gpu_monitor.GPUMonitor": monitor,
    "mlflow.system_metrics.metrics.network_monitor.NetworkMonitor": monitor,
    "mlflow.store.tracking.dbmodels.models.SqlExperiment.artifact_location": column("experiments"),
    "mlflow.store.tracking.dbmodels.models.SqlRun.artifact_uri": column("runs"),
    "botocore.hooks.HierarchicalEmitter.register_first": both(
        takes("self", "needs-retry.s3.HeadBucket", print),
        source_has('f"needs-retry.{service_id}.{operation_model.name}"', of="botocore.endpoint"),
    ),
    "botocore.parsers.ResponseParserError": resolve,
    "tensorboard.summary.writer.record_writer.RecordWriter": takes("file"),
    "tensorboard.compat.proto.event_pb2.Event": resolve,
}


def test_the_page_and_this_file_list_the_same_names() -> None:
    assert list(rows()) == list(CHECKS)


@pytest.mark.parametrize("name", CHECKS)
def test_the_name_is_there(name: str) -> None:
    try:
        CHECKS[name](name)
    except (ImportError, AttributeError, TypeError, OSError, AssertionError) as error:
        remedy = rows()[name]["remedy"]
        pytest.fail(f"{name}: {error}\n{remedy} (docs/private-apis.md)", pytrace=False)


INDIRECTLY = {"kfp.dsl.executor_main.executor_main"}  # by what it reads and prints


def test_the_files_that_are_named_use_the_name(repository: Path) -> None:
    for name, row in rows().items():
        files = PATH.findall(row["files"])
        assert files, name
        for file in files:
            text = (repository / file).read_text(encoding="utf-8")
            used = name.rpartition(".")[2] in text or name in INDIRECTLY
            assert used, f"{file} does not use {name}"
    for path in PATH.findall(PAGE.read_text(encoding="utf-8")):
        if path.split("/")[0] in (*OURS, "tests"):
            assert (repository / path).is_file(), f"docs/private-apis.md names {path}"


# Private by their spelling only.
DOCUMENTED = {"_exit", "_asdict", "_replace"}


def private_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Of other packages: modules and names that are imported, attributes that are read or set."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module not in ("__future__",):
            if node.module.split(".")[0] in OURS:
                continue
            names = [*node.module.split("."), *(each.name for each in node.names)]
            yield from ((node.lineno, each) for each in names if each.startswith("_"))
        elif isinstance(node, ast.Import):
            names = [part for each in node.names for part in each.name.split(".")]
            yield from ((node.lineno, each) for each in names if each.startswith("_"))
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            yield node.lineno, node.attr
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("getattr", "setattr", "hasattr")
            and isinstance(node.args[1], ast.Constant)
        ):
            yield node.lineno, str(node.args[1].value)


def own_names(tree: ast.AST) -> Iterator[str]:
    """Names with an underscore that our own code defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("self", "cls")
        ):
            yield node.attr


def test_no_private_name_is_used_that_is_not_listed(repository: Path) -> None:
    files = [path for package in OURS for path in (repository / package).rglob("*.py")]
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    known = {name for tree in trees.values() for name in own_names(tree)} | DOCUMENTED
    known |= {part for name in CHECKS for part in name.split(".")}
    unknown = [
        f"{path.relative_to(repository)}:{line}: {name}"
        for path, tree in trees.items()
        for line, name in private_names(tree)
        if name.startswith("_") and not name.startswith("__")
        if name not in known
    ]
    assert not unknown, f"list them in docs/private-apis.md, or use a public name: {unknown}"
