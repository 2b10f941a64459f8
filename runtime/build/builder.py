"""Builds an image from a Dockerfile: the needed stages along their graph, each step once, layers from the cache.

A failure names the Dockerfile's line, the instruction and the step's last output. Half-made layers lie in ingest
directories of the store, which vanish with the step and are swept after a crash.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from runtime.api import BuildRequest, Progress
from runtime.build.cache import StepCache
from runtime.build.context import FileDigests, open_context, read_dockerfile
from runtime.build.imageconfig import StageConfig
from runtime.build.instructions import Arg
from runtime.build.parallel import run_stages
from runtime.build.parse import parse
from runtime.build.stage import PROXIES, Inputs, RunStep, StageBuild, StageResult
from runtime.build.stages import BuildPlan, PlannedStage, plan_build, platform_args
from runtime.errors import NotFound
from runtime.image.store import ImageRecord, ImageStore
from runtime.layout import Layout

__all__ = ["RunStep", "build"]


def build(
    store: ImageStore,
    request: BuildRequest,
    name: str,
    labels: Mapping[str, str],
    declared: Any,
    progress: Progress,
    run_step: RunStep,
    layout: Layout,
) -> ImageRecord:
    """Build `request` and point `name` at the result; `labels` and `declared` are the name's, not the image's.

    Raises InvalidSpec for a bad Dockerfile or context, NotFound for a missing base, BuildFailed for a step that fails.
    """
    file, text = read_dockerfile(request)
    plan = plan_build(parse(text, file), request.target, request.args)
    tell = _serialised(progress)
    for warning in (*plan.dockerfile.warnings, *_unused_args(plan, request)):
        tell(f"warning: {file}: {warning}")
    tree = open_context(request)
    inputs = Inputs(
        store=store,
        request=request,
        name=name,
        plan=plan,
        tell=tell,
        run_step=run_step,
        cache=StepCache(layout, store),
        context=tree,
        digests=FileDigests(request, layout.build_cache),
        find_image=lambda reference, line: _find_image(
            store, name, file, request.images.get(reference, reference), line
        ),
        now=_now,
    )
    try:
        with store.lease():

            def make(planned: PlannedStage, done: Mapping[int, StageResult], check: Callable[[], None]) -> StageResult:
                return StageBuild(inputs, planned, done, check).run()

            result = run_stages(plan.stages, make)[plan.stages[-1].index]
            config = StageConfig(result.config)
            for key, value in request.labels.items():
                config.set_label(key, value)
            return store.commit(config.whole(), result.layers, name, labels, declared)
    finally:
        tree.close()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _serialised(progress: Progress) -> Progress:
    lock = threading.Lock()

    def tell(line: str) -> None:
        with lock:
            progress(line)

    return tell


def _unused_args(plan: BuildPlan, request: BuildRequest) -> list[str]:
    declared = {name for command in plan.dockerfile.args for name, _ in command.values}
    for planned in plan.stages:
        for command in planned.stage.commands:
            if isinstance(command, Arg):
                declared.update(name for name, _ in command.values)
    unused = set(request.args) - declared - set(PROXIES) - set(platform_args())
    return [f"build argument {name} is not used" for name in sorted(unused)]


def _find_image(store: ImageStore, name: str, file: str, reference: str, line: int) -> ImageRecord:
    record = store.get(reference)
    if record is None:
        raise NotFound(
            f'cannot build image "{name}": {file}:{line}: image "{reference}" does not exist here',
            f'declare an Image "{reference}" (bootstrap, archive or build): registries are not supported yet',
        )
    return record
