"""Hints for mistyped commands and options, and for those of other tools."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

import click

from sdpose.config import experiments_dir
from sdpose.config.key_names import key_paths
from sdpose.config.load import WEIGHTS
from sdpose.config.schema import Experiment
from sdpose.config.short_keys import OTHER_NAMES, SHORT_KEYS

_PIPELINE = "python pipelines/submit.py"
_LAUNCH = "sdpose launch --nproc-per-node 8 {} EXP"

COMMANDS = {
    **dict.fromkeys(("eval", "evaluate", "val", "validate"), "sdpose test EXP CHECKPOINT"),
    "resume": f"the same `sdpose train EXP` again; of a whole pipeline: {_PIPELINE} resume RUN",
    **dict.fromkeys(("fit", "tools/train.py", "train.py"), "sdpose train EXP"),
    **dict.fromkeys(("tools/test.py", "test.py"), "sdpose test EXP CHECKPOINT --eval mAP"),
    **dict.fromkeys(("dist_train", "dist_train.sh", "torchrun"), _LAUNCH.format("train")),
    **dict.fromkeys(("dist_test", "dist_test.sh"), f"{_LAUNCH.format('test')} CHECKPOINT"),
    **dict.fromkeys(("run", "submit"), f"{_PIPELINE} --exp EXP"),
    "sweep": f"{_PIPELINE} --sweep NAME",
    "cancel": f"{_PIPELINE} cancel RUN",
    **dict.fromkeys(("infer", "inference", "demo", "detect"), "sdpose predict CHECKPOINT PHOTOS"),
    **dict.fromkeys(("check", "quick_check"), "sdpose doctor EXP --steps 10"),
    **dict.fromkeys(("download", "fetch"), "sdpose prepare EXP --data-root D --fetch SOURCE"),
    "tensorboard": "tensorboard --logdir work_dirs",
    "mlflow": "sdpose ui",
}

# By name without dashes. What is a key of the experiment is found by itself.
OPTIONS = {
    **dict.fromkeys(
        ("gpus", "gpu", "gpu-ids", "gpu-id", "devices", "device", "nproc", "launcher"),
        f"start it with `{_LAUNCH.format('train')}`; CUDA_VISIBLE_DEVICES=0,1 chooses GPUs",
    ),
    **dict.fromkeys(("cfg-options", "options"), "use --set KEY.PATH=VALUE, once for each value"),
    **dict.fromkeys(("config", "cfg", "exp", "experiment"), "give its name first: {command} EXP"),
    "resume": "use --resume-from auto (the same command continues by itself)",
    **dict.fromkeys(("checkpoint", "weights", "ckpt", "pretrained"), "use --load-from FILE"),
    **dict.fromkeys(("output-dir", "out-dir", "save-dir", "output", "out"), "use --work-dir DIR"),
    **dict.fromkeys(("data", "data-dir", "data-path", "dataset"), "use --data-root DIR"),
    "to": "use --channel CHANNEL",
    "no-validate": "use --set evaluation.interval=N, in epochs",
    "force": "use --overwrite, which removes the results that are there",
    "dry-run": f"use `sdpose doctor EXP`, or {_PIPELINE} --exp EXP --dry-run",
}
# Where another command answers otherwise.
OPTIONS_OF = {
    "submit.py": {
        **dict.fromkeys(("config", "cfg", "experiment", "name"), "use --exp NAME"),
        **dict.fromkeys(
            ("gpu-ids", "devices", "nproc", "launcher"),
            "all GPUs are used; CUDA_VISIBLE_DEVICES=0,1 chooses some",
        ),
    },
    "sdpose test": dict.fromkeys(
        ("checkpoint", "weights", "ckpt", "load-from"), "give it second: sdpose test EXP CHECKPOINT"
    ),
}


def explain(error: click.UsageError, arguments: Sequence[str]) -> str:
    """One line for a command that click refuses, with the one that is meant.

    arguments: those of the whole command line.
    """
    context = error.ctx
    message = " ".join(error.format_message().split()).rstrip(".")
    if context is None:
        return message
    remedy = None
    if isinstance(error, click.NoSuchOption):
        message = f"{context.command_path} has no option {_typed(error.option_name, arguments)}"
        remedy = _option(error.option_name, context, arguments)
    elif isinstance(error, click.exceptions.NoSuchCommand):
        message = f"{context.command_path} has no command {error.command_name}"
        remedy = _command(error.command_name, context)
    elif not isinstance(error, click.MissingParameter | click.BadParameter):
        remedy = _extra(_extra_arguments(context, arguments), context, arguments)
    return f"{message}: {remedy or f'see {context.command_path} --help'}"


def _command(name: str, context: click.Context) -> str | None:
    if name in COMMANDS:
        return COMMANDS[name]
    root = context.find_root()
    assert isinstance(root.command, click.Group)
    for group in [root.command, *root.command.commands.values()]:
        if (
            isinstance(group, click.Group)
            and name in group.commands
            and group is not context.command
        ):
            path = root.command_path + f" {group.name}" * (group is not root.command)
            return f"{path} {name}"
    if _is_experiment(name):
        return f"sdpose train {name}, or {_PIPELINE} --exp {name}"
    assert isinstance(context.command, click.Group)
    return _nearest(name, context.command.commands)


def _option(name: str, context: click.Context, arguments: Sequence[str]) -> str | None:
    typed = _typed(name, arguments)
    word = typed.lstrip("-").replace("_", "-")
    known = [option for p in context.command.params for option in (*p.opts, *p.secondary_opts)]
    if f"--{word}" in known:
        return f"write --{word}"
    path = context.command_path
    for table in (OPTIONS_OF.get(path, {}), OPTIONS):
        if word in table and not (remedy := table[word]).startswith("use --"):
            return remedy.format(command=path)
        if word in table and remedy.split()[1] in known:
            return remedy
    key = word.replace("-", "_")
    if "--set" in known and (names := _keys(key)):
        return "use " + " or ".join(f"--set {name}={_value(typed, arguments)}" for name in names)
    return _nearest(f"--{word}", known)


def _nearest(name: str, known: Iterable[str]) -> str | None:
    near = get_close_matches(name, known, n=1, cutoff=0.65)
    return f"did you mean {near[0]}?" if near else None


def _keys(name: str) -> list[str]:
    if name in SHORT_KEYS:
        return [name]
    if name in OTHER_NAMES:
        return [OTHER_NAMES[name]]
    return [path for path in key_paths(Experiment) if path.rpartition(".")[2] == name][:3]


def _typed(option: str, arguments: Sequence[str]) -> str:
    """The word that was typed: of `-resume` click names the `-r` alone."""
    words = [argument.partition("=")[0] for argument in arguments]
    return next((word for word in words if word.startswith(option)), option)


def _value(typed: str, arguments: Sequence[str]) -> str:
    for argument, following in zip(arguments, [*arguments[1:], "-"], strict=True):
        if argument.startswith(f"{typed}="):
            return argument.partition("=")[2]
        if argument == typed and not following.startswith("-"):
            return following
    return "VALUE"


def _extra_arguments(context: click.Context, arguments: Sequence[str]) -> list[str]:
    """The arguments that are too many."""
    command, depth, parent = context.command, 0, context.parent
    while parent is not None:
        depth, parent = depth + 1, parent.parent
    _, words, _ = command.make_parser(context).parse_args(list(arguments[depth:]))
    return words


def _extra(extra: list[str], context: click.Context, arguments: Sequence[str]) -> str | None:
    if not extra:
        return None
    path = context.command_path
    overrides = [str(text) for text in context.params.get("overrides") or ()]
    for override in overrides:
        if "=" not in override:
            return f"write --set {override}={extra[0]}"
        if _open_brackets(override) > 0:
            start = next(n for n, word in enumerate(arguments) if word.endswith(override))
            value = override
            for word in arguments[start + 1 :]:
                value += f" {word}"
                if _open_brackets(value) <= 0:
                    break
            return f"put the value in quotes: --set '{value}'"
    if overrides and "=" in extra[0]:
        return f"repeat the option: --set {extra[0]}"
    for parameter in context.command.params:
        if isinstance(parameter.type, click.Choice) and extra[0] in parameter.type.choices:
            return f"write {parameter.opts[0]} {extra[0]}"
    if path == "submit.py":
        name = next(filter(_is_experiment, extra), extra[0])
        return f"{_PIPELINE} --exp {name}"
    options = {opt for parameter in context.command.params for opt in parameter.opts}
    if Path(extra[0]).suffix in WEIGHTS and "--resume-from" in options:
        return (
            f"--resume-from {extra[0]} continues it, --load-from {extra[0]} starts with its weights"
        )
    if Path(extra[0]).suffix and "--out" in options:
        return f"write --out {extra[0]}"
    if extra[0].isdecimal():
        return f"sdpose launch --nproc-per-node {extra[0]} {context.info_name} EXP"
    return None


def _open_brackets(text: str) -> int:
    return len(re.findall(r"[{\[]", text)) - len(re.findall(r"[}\]]", text))


def _is_experiment(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or Path(experiments_dir(), f"{name}.yaml").is_file()
