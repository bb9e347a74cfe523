"""Runs several jobs side by side, each in a process of its own."""

import subprocess
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import FrameType

from tqdm.auto import tqdm

from ..base.errors import UserError
from ..base.paths import ROOT, child_environment, relative
from ..base.processes import cores, only_writer, stopping_signals
from .folders import run_folder
from .parameters import as_words
from .plan import Job
from .record import EXIT_CODES, read_record, up_to_date


def side_by_side(jobs: list[Job], lanes: int = 2) -> int:
    """Do jobs that do not read each other, `lanes` at a time with equal shares of the cores.

    Returns 0 if all jobs are done, else the first exit code that is not 0.

    Two small networks that train side by side with one thread each use two cores better than one with two threads. A
    job that fails does not stop the others.
    """
    lanes = min(lanes, cores())
    work = Workers(max(1, cores() // lanes))
    names = ", ".join(f"{Path(job.notebook).stem} ({job.run})" for job in jobs)
    print(f"{lanes} at a time, output in the .log beside each: {names}", flush=True)
    codes: dict[Future, int] = {}
    with (
        stopping_signals(work.stop),
        ThreadPoolExecutor(lanes) as pool,
        tqdm(total=len(jobs), unit="notebook", leave=False, disable=None) as bar,
    ):
        futures = {pool.submit(work.do, job): number for number, job in enumerate(jobs)}
        while left := futures.keys() - codes.keys():
            for future in wait(left, timeout=1, return_when=FIRST_COMPLETED).done:
                codes[future] = future.result()
                job = jobs[futures[future]]
                bar.write(failure(job) if codes[future] else _last_line(log_of(job)))
                bar.update()
            bar.refresh()  # the seconds go on
    return next((codes[future] for future in futures if codes[future]), 0)


def log_of(job: Job) -> Path:
    """The file that the output of the job goes to."""
    return run_folder(job.run) / f"{Path(job.notebook).stem}.log"


def _last_line(log: Path) -> str:
    return (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""])[-1]


def failure(job: Job) -> str:
    """One line about a job that did not end well: its reason, and the log that says more."""
    stage = Path(job.notebook).stem
    folder = run_folder(job.run)
    record = read_record(folder / stage)
    return f"{stage} ({job.run}): {record['status']}: {record.get('error') or 'no reason is recorded'}; see {relative(folder / stage)}.log"


class Workers:
    """Runs as processes of their own; a stopping signal ends the runs at work, and no other run begins.

    threads: number of threads of each process. pictures: whether changed drawing code makes a finished run start again
    (see `up_to_date`).
    """

    def __init__(self, threads: int, pictures: bool = True):
        self.threads, self.pictures = threads, pictures
        self.stopped, self.lock = 0, threading.Lock()
        self.children: set[subprocess.Popen] = set()

    def do(self, job: Job, threads: int | None = None) -> int:
        """Run the job unless it is done; returns its exit code. The log is <notebook>.log in the run's folder."""
        if self.stopped:
            return EXIT_CODES["preempted"]
        if up_to_date(job.notebook, job.run, job.parameters, self.pictures):
            return 0
        try:
            with only_writer(run_folder(job.run) / Path(job.notebook).stem):
                pass
        except UserError as error:  # another process is at work there, and the log is that process's
            tqdm.write(f"error: {error}", file=sys.stderr)
            return EXIT_CODES["incomplete"]
        command = [sys.executable, "-m", "face3d_lib.cli", "run", job.notebook, job.run, *as_words(job.parameters)]
        # two busy processes with a thread for each core would each be many times slower than one
        environment = child_environment(OMP_NUM_THREADS=str(threads or self.threads))
        log_of(job).parent.mkdir(parents=True, exist_ok=True)
        with open(log_of(job), "wb") as log, self.lock:
            child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
            self.children.add(child)
        if self.stopped:
            child.terminate()
        code = child.wait()
        with self.lock:
            self.children.discard(child)
        return code if code >= 0 else EXIT_CODES["preempted"]

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: end the runs at work, which save, and let no other begin."""
        self.stopped = number
        for child in list(self.children):
            child.terminate()
