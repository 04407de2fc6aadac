"""Ray: the units are tasks of a cluster.

Results come back to the driver, which writes them; Ray runs again what a dead node was computing. The nodes must be
able to import geartrain and the function's module (a shared disk, or Ray's ``runtime_env``); they need not see the
sweep's folder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from geartrain.errors import GeartrainError
from geartrain.sweeps.executors._base import Outcome, compute_named
from geartrain.sweeps.reference import Reference
from geartrain.sweeps.unit import Unit, failed


class Ray:
    """Tasks of a Ray cluster.

    Args:
        workers: Units at once; as many as the cluster has processors if omitted.
        options: ``address`` and ``runtime_env`` go to ``ray.init`` (by default the cluster of ``RAY_ADDRESS``, else a
            small one on this machine); everything else (``num_cpus``, ``num_gpus``, ``max_retries``, ...) to the tasks.
    """

    def __init__(self, workers: int | None, options: Mapping[str, Any]) -> None:
        self.slots = workers or 1
        self._workers = workers
        self._options = {"num_cpus": 1, "max_retries": 3, **options}
        self._function: Reference | None = None
        self._task: Any = None
        self._out: dict[Any, Unit] = {}
        self._started = False
        self._ray: Any = None

    def start(self, function: Reference) -> None:
        """Join or start the cluster."""
        try:
            import ray
        except ModuleNotFoundError:
            raise GeartrainError("Ray is not installed: pip install 'geartrain[ray]'.") from None
        function.load()
        self._ray, self._function = ray, function
        options = dict(self._options)
        address = options.pop("address", os.environ.get("RAY_ADDRESS"))
        runtime = options.pop("runtime_env", None)
        if not ray.is_initialized():
            own = {} if address else {"num_cpus": self._workers, "include_dashboard": False}
            ray.init(
                address=address, runtime_env=runtime, log_to_driver=False, configure_logging=False, **own
            )
            self._started = True
        self._task = ray.remote(compute_named).options(**options)
        if self._workers is None:
            self.slots = max(1, int(ray.cluster_resources().get("CPU", 1)))

    def submit(self, unit: Unit) -> None:
        """Start a task."""
        self._out[self._task.remote(self._function, unit)] = unit

    def wait(self, seconds: float) -> list[tuple[Unit, Outcome]]:
        """Results of the tasks that ended, and failures of those that Ray gave up."""
        ready, _ = self._ray.wait(list(self._out), num_returns=1, timeout=seconds)
        back: list[tuple[Unit, Outcome]] = []
        for reference in ready:
            unit = self._out.pop(reference)
            try:
                back.append((unit, self._ray.get(reference)))
            except self._ray.exceptions.RayError as error:
                back.append((unit, failed(unit, error)))
        return back

    def stop(self) -> None:
        """Cancel the tasks; leave the cluster if this sweep joined it."""
        for reference in self._out:
            with contextlib.suppress(Exception):
                self._ray.cancel(reference, force=True)
        self._out = {}
        if self._started:
            self._ray.shutdown()
            self._started = False
