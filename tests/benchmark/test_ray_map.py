"""The same benchmark over Ray: as serial, whoever dies; one local cluster of two workers for this file."""

import os
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import tiny_bench
from jopa.benchmark.cells import Task, cells_of
from jopa.benchmark.ray_map import RayMap, _Pool
from jopa.benchmark.records import FailedCell, read_run
from jopa.benchmark.run import run_bench
from jopa.datasets.examples import Example
from jopa.errors import JopaError, ModelError, SettingError
from jopa.methods import make_method
from jopa.storage import read_lines
from ray_faults import Deadly, Slow
from tiny_bench import cells, keys, timeless

ray = pytest.importorskip("ray", reason="the package ray is not here")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Ray of our own, outside the repository, with room for two workers; gone at the end."""
    tests = str(Path(__file__).parents[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")]))
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=0,
            object_store_memory=100 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
        )
        try:
            yield
        finally:
            ray.shutdown()


@pytest.fixture(scope="module")
def home(tmp_path_factory, llama) -> Path:
    return tiny_bench.save(tmp_path_factory.mktemp("bench"), llama)


def by_key(records):
    return {tuple(record["key"].values()): record for record in timeless(records)}


def close(mine, theirs) -> None:
    """Equal, numbers to 1e-4."""
    if isinstance(mine, dict):
        assert mine.keys() == theirs.keys()
        for name in mine:
            close(mine[name], theirs[name])
    elif isinstance(mine, list):
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs, strict=True):
            close(one, other)
    elif isinstance(mine, float):
        assert mine == pytest.approx(theirs, abs=1e-4)
    else:
        assert mine == theirs


def same_as_serial(wanted, over_ray, folder, but=()) -> None:
    """A run over Ray has every cell of an experiment that this process does in a folder, but for some examples."""
    run_bench(wanted, folder)
    found = by_key(cells(over_ray))
    here = {key: record for key, record in by_key(cells(folder)).items() if record["key"]["example"] not in but}
    assert here
    for key, record in here.items():
        close(found[key], record)


def test_the_same_records_as_in_this_process_though_a_worker_is_killed(cluster, home, tmp_path):
    """Two tasks at a time in each of two workers; one at a time, see the next test."""
    random, ablation, folder = make_method("random"), make_method("ablation"), tmp_path / "ray"
    wanted = tiny_bench.experiment(home, [random, Slow(), ablation])
    killed = []
    over = threading.Event()

    def kill():
        """SIGKILL for the first worker whose search is on record, while it is at its next."""
        while not killed and not over.is_set():
            if len(read_lines(folder / "selections.jsonl")) >= 2:
                for actor in _workers()[:1]:
                    os.kill(actor, signal.SIGKILL)
                    killed.append(actor)
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        outcome = run_bench(wanted, folder, mapper=RayMap(workers=2, together=2))
    finally:
        over.set()
        thread.join()
    assert len(killed) == 1
    assert (outcome.done, outcome.failed) == (24, 0)
    assert set(Counter(keys(cells(folder))).values()) == {1}
    assert len(cells(folder)) == 24
    searches = [(it["example"], it["method"], *it["ks"]) for it in read_lines(folder / "selections.jsonl")]
    assert len(searches) == len(set(searches)) == 4 * (2 + 2 + 1)  # what was on record was not searched again
    assert not any(cell["worker"].endswith(f":{killed[0]}") for cell in cells(folder)[-6:])
    assert all(not cell["worker"].endswith(f":{os.getpid()}") for cell in cells(folder))
    same_as_serial(tiny_bench.experiment(home, [random, ablation]), folder, tmp_path / "serial")
    examples = [
        sorted(timeless(read_lines(tmp_path / name / "examples.jsonl")), key=lambda it: it["example"])
        for name in ("ray", "serial")
    ]
    assert len(examples[0]) == 4
    close(*examples)
    assert run_bench(wanted, folder, mapper=RayMap()).before == 24


def _workers() -> list[int]:
    """The processes of Ray's workers that run our actor, children of this cluster's raylet."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::_Worker"):
                found.append((int(path.parent.name), path.parent))
        except OSError:
            continue
    return [pid for pid, process in found if _is_ours(process)]


def _is_ours(process: Path) -> bool:
    """Whether this process is an ancestor; other sessions may run a Ray of their own."""
    try:
        while process.name not in ("0", "1"):
            if process.name == str(os.getpid()):
                return True
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            process = Path("/proc", fields[1])
    except OSError:
        pass
    return False


def test_a_task_whose_workers_die_is_given_to_others_and_then_given_up(cluster, home, tmp_path, monkeypatch):
    """One worker is killed and one is told to end, as where a machine leaves the cluster."""
    monkeypatch.setattr(
        "jopa.benchmark.ray_map.MAX_ATTEMPTS", 2
    )  # each life takes seconds to begin; that it is 3, see below
    (tmp_path / "marks").mkdir()
    deadly = Deadly(units=11, marks=str(tmp_path / "marks"))
    others = [make_method("jopa", steps=6), make_method("greedy")]
    wanted = tiny_bench.experiment(home, [*others, deadly], limit=3, ks=(1,))
    outcome = run_bench(wanted, tmp_path / "run", mapper=RayMap(workers=1))
    assert len(list((tmp_path / "marks").iterdir())) == 2
    failed = read_run(tmp_path / "run").failed
    # Cells come after all searches, so the example's other cells go with it.
    assert {cell.key.example for cell in failed} == {"p0"}
    assert all("2 workers died with this example" in cell.error for cell in failed)
    assert (outcome.done, outcome.failed) == (6, 3)
    assert len(cells(tmp_path / "run")) == 9
    alone = tiny_bench.experiment(home, others, limit=3, ks=(1,))
    same_as_serial(alone, tmp_path / "run", tmp_path / "serial", but=["p0"])


def test_a_model_that_cannot_be_loaded_is_one_error(cluster, home, tmp_path):
    wanted = tiny_bench.experiment(home)
    wanted = replace(wanted, models=(replace(wanted.models[0], id=str(tmp_path)),))
    with pytest.raises(ModelError, match=r"holds no config\.json") as caught:
        run_bench(wanted, tmp_path / "run", mapper=RayMap(workers=1))
    assert "\n" not in str(caught.value)
    assert cells(tmp_path / "run") == []


class GoneError(Exception):
    """As Ray's error of a worker that is no more."""

    actor_init_failed = False


class DyingRay:
    """As much of Ray as the pool uses: every worker dies over its first line, or while it starts."""

    def __init__(self, init_failed: bool) -> None:
        self.hired = 0
        error = type("Died", (GoneError,), {"actor_init_failed": init_failed})
        self.error = error("the worker died\nunexpectedly")
        self.exceptions = SimpleNamespace(RayTaskError=ZeroDivisionError, RayError=GoneError)
        self.run_task = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda _task: iter([None])))

    def cluster_resources(self):
        return {"CPU": 2.0}

    def remote(self, _worker):
        def hire(*_):
            self.hired += 1
            return SimpleNamespace(run_task=self.run_task)

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=hire))

    def wait(self, lines, *, num_returns):
        return lines[:num_returns], lines[num_returns:]

    def get(self, _line):
        raise self.error


def errors(lines):
    """What the records of failed cells say, of lines that are nothing else."""
    records = [line.record for line in lines]
    assert all(isinstance(record, FailedCell) for record in records)
    return [record.error for record in records]


def tasks(home, number) -> list[Task]:
    experiment = tiny_bench.experiment(home)
    keys = [tuple(cells_of(experiment, "tiny", "mine", f"p{i}")) for i in range(number)]
    return [Task(experiment.models[0], "mine", Example(f"p{i}", "text"), pending) for i, pending in enumerate(keys)]


def test_workers_that_only_die_end_the_run_instead_of_every_example(home):
    """As when the model fits into no worker's memory: nothing is learnt by failing a million cells."""
    dying = DyingRay(init_failed=False)
    lines = []
    with pytest.raises(JopaError, match="24 workers died one after another without any result") as caught:
        for line in _Pool(dying, RayMap(), tiny_bench.experiment(home), tasks(home, 100)).lines():
            lines.append(line)
    assert dying.hired == 2 + 23
    assert {line.record.key.example for line in lines} == {f"p{i}" for i in range(7)}
    assert "\n" not in str(caught.value)


def test_workers_that_cannot_start_end_the_run_at_once(home):
    """As on a machine without jopa."""
    dying = DyingRay(init_failed=True)
    with pytest.raises(JopaError, match="a worker cannot start; are jopa and its packages on every machine"):
        list(_Pool(dying, RayMap(), tiny_bench.experiment(home), tasks(home, 100)).lines())
    assert dying.hired == 2


def test_a_few_examples_that_always_kill_are_failed_one_by_one(home):
    dying = DyingRay(init_failed=False)
    lines = list(_Pool(dying, RayMap(), tiny_bench.experiment(home), tasks(home, 3)).lines())
    assert dying.hired == 3 * 3  # three for each
    assert all("3 workers died with this example" in error for error in errors(lines))
    assert len(lines) == 3 * 8


def test_a_worker_larger_than_this_machine_is_refused_at_once(cluster, home, tmp_path):
    with pytest.raises(SettingError, match="this machine has 2 processors for Ray; a worker cannot have 64"):
        run_bench(tiny_bench.experiment(home), tmp_path, mapper=RayMap(cpus=64))


def test_what_was_at_work_together_when_a_worker_died_goes_on_alone(home):
    dying = DyingRay(init_failed=False)
    lines = list(_Pool(dying, RayMap(together=3), tiny_bench.experiment(home), tasks(home, 3)).lines())
    assert dying.hired == 1 + 3 * 2  # one for all of them, then two for each
    assert len(lines) == 3 * 8
    assert all("3 workers died with this example" in error for error in errors(lines))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"workers": 0}, "workers must be"), ({"cpus": 0}, "cpus must be"), ({"together": 0}, "together must be")],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(SettingError, match=message):
        RayMap(**settings)


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingError, match=r'pip install "jopa\[bench\]"'):
        list(RayMap()(tiny_bench.experiment(tmp_path), []))
