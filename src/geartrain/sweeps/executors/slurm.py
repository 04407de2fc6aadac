"""Jobs of a Slurm cluster, through submitit.

Each job drives the sweep on its own node: the jobs share the folder, and
claims on the units keep them apart. A job that is killed or preempted loses only the units it was computing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from geartrain.errors import GeartrainError

_POLL = 1.0


class Pilots:
    """The jobs of one sweep.

    Args:
        folder: Folder of the sweep, on a disk that all nodes see.
        jobs: How many jobs.
        options: ``cluster`` (``"slurm"``, or ``"local"`` for tries without a cluster), ``workers``
            (processes in each job; by default ``cpus_per_task``, else 1); everything else goes to submitit
            (``timeout_min``, ``slurm_partition``, ``cpus_per_task``, ``mem_gb``, ...).
    """

    def __init__(self, folder: Path, jobs: int, options: Mapping[str, Any]) -> None:
        self.folder = folder
        self.jobs = jobs
        self.options = dict(options)
        self._submitted: list[Any] = []

    def submit(self) -> None:
        """Submit the jobs."""
        try:
            import submitit
        except ModuleNotFoundError:
            raise GeartrainError("submitit is not installed: pip install 'geartrain[slurm]'.") from None
        options = dict(self.options)
        cluster = options.pop("cluster", "slurm")
        workers = options.pop("workers", options.get("cpus_per_task", 1))
        try:
            executor = submitit.AutoExecutor(folder=self.folder / "jobs", cluster=cluster)
        except RuntimeError as error:
            raise GeartrainError(
                f"There is no Slurm here ({error}). Start the sweep on a login node, or try it with "
                "executor_options={'cluster': 'local'}."
            ) from None
        executor.update_parameters(**{"name": f"geartrain-{self.folder.name}", **options})
        self._submitted = [executor.submit(pilot, str(self.folder), workers) for _ in range(self.jobs)]

    def wait(self, look: Callable[[], bool]) -> None:
        """Wait until all units are settled or no job is left.

        Args:
            look: Shows the state of the sweep; true when every unit is settled.

        Raises:
            GeartrainError: The jobs ended before the sweep did; says what the first one said.
        """
        while not look():
            if all(job.done() for job in self._submitted):
                if look():
                    return
                raise GeartrainError(f"All {self.jobs} jobs ended before the sweep did. {self._complaint()}")
            time.sleep(_POLL)
        for job in self._submitted:
            job.exception()  # waits for its end: nothing writes in the folder any more

    def stop(self) -> None:
        """Cancel the jobs that have not ended."""
        for job in self._submitted:
            if not job.done():
                job.cancel(check=False)

    def _complaint(self) -> str:
        for job in self._submitted:
            error = job.exception()
            if error is not None:
                lines = [line for line in str(error).splitlines() if line.strip(" -")]
                return f"Job {job.job_id}: {lines[-1] if lines else repr(error)}. See {job.paths.stderr}."
        return f"See {self.folder / 'jobs'}."


def pilot(folder: str, workers: int) -> None:
    """What each job does: drive the sweep of that folder from its own node."""
    from geartrain.sweeps import load

    load(folder).run(executor="local", workers=workers, progress=False)
