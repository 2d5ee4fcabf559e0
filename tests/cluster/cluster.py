"""A real SLURM cluster on this machine, for tests: munged, slurmctld, and a slurmd for each virtual node.

Every node has its own network and host name. Nothing of it is outside of its sandbox and its temporary folder, so that
clusters do not meet each other, nor the machine's own SLURM if it has one.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.sandbox import Place, Sandbox, missing_programs

ROOT = Path(__file__).resolve().parents[2]
HEAD = "head"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")  # how jobs end
_PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")

# Timers are short so that tests are; `{...}` is filled in below. `work` may be pre-empted by `urgent`.
# cred_expire is also how long a requeued job waits.
_CONFIGURATION = """
ClusterName=virtual
SlurmctldHost=head({head_address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
KillWait={kill_wait_s}
SlurmdTimeout=10
SlurmctldTimeout=5
MessageTimeout=5
TCPTimeout=2
BatchStartTimeout=10
MinJobAge=3600
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0,sched_min_interval=100000
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=DEFAULT CPUs=64 RealMemory=1000 Gres=gpu:8
{nodes}
PartitionName=work Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace_s}
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""


def reason_for_no_cluster() -> str | None:
    """Why there can be no cluster on this machine; None when there can."""
    if os.geteuid() != 0:
        return "namespaces need root"
    missing = missing_programs(_PROGRAMS)
    return f"{', '.join(missing)} missing: apt-get install slurm-wlm munge iproute2" if missing else None


class Node:
    """A virtual node: what can happen to it."""

    def __init__(self, place: Place, folder: Path, start_slurmd: Callable[[Place], None]) -> None:
        self.place, self.name, self.folder, self._start_slurmd = place, place.name, folder, start_slurmd

    def link(self, state: str) -> None:
        """`down` cuts the node off without a word to anybody, `up` mends it."""
        self.place.run("ip", "link", "set", "eth0", state)

    def slow_down(self, rate: str) -> None:
        """Let no more than `rate` (for example 1mbit) leave the node."""
        bucket = ("tbf", "rate", rate, "burst", "32kb", "latency", "400ms")
        self.place.run("tc", "qdisc", "replace", "dev", "eth0", "root", *bucket)

    def kill(self, program: str | None = None) -> None:
        """End a program of the node at once, for example slurmd; with None everything on it, like a loss of power."""
        for number in self.place.processes(program):
            os.kill(number, signal.SIGKILL)

    def start(self) -> None:
        """Start the node's slurmd."""
        self._start_slurmd(self.place)

    def sent_bytes(self) -> int:
        """What has left the node so far."""
        counters = re.search(r"eth0:(.*)", self.place.run("cat", "/proc/net/dev").stdout)
        assert counters
        return int(counters[1].split()[8])


class Cluster:
    """munged, slurmctld and `nodes` slurmds; use it in a `with` block. `head` is where sbatch and its like are run."""

    def __init__(self, nodes: int = 3, kill_wait_s: int = 10, grace_s: int = 20) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cluster-"))
        self._size, self._kill_wait_s, self._grace_s = nodes, kill_wait_s, grace_s
        self.nodes: dict[str, Node] = {}

    def __enter__(self) -> Cluster:
        names = [f"node{number}" for number in range(1, self._size + 1)]
        hosts = {HEAD: "10.0.0.1", **{name: f"10.0.1.{number}" for number, name in enumerate(names, 1)}}
        self._sandbox = Sandbox(self.folder, hosts, HEAD)
        try:
            self.head = self._sandbox.outside
            self._configure({name: hosts[name] for name in names})
            self._start_munged()
            self.start_controller()
            for name in names:
                place = self._sandbox.add_place(name, hosts[name])
                (self.folder / name / "spool").mkdir()
                self.nodes[name] = Node(place, self.folder / name, self._start_slurmd)
                self.nodes[name].start()
            wait_until(lambda: self.node_states() == dict.fromkeys(names, "idle"), 60, self.node_states)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self._close()

    def _close(self) -> None:
        self._sandbox.close()
        shutil.rmtree(self.folder)

    def _configure(self, addresses: Mapping[str, str]) -> None:
        (self.folder / "state").mkdir()
        text = _CONFIGURATION.format(
            folder=self.folder,
            head_address="10.0.0.1",
            kill_wait_s=self._kill_wait_s,
            grace_s=self._grace_s,
            nodes="\n".join(f"NodeName={name} NodeAddr={address}" for name, address in addresses.items()),
        )
        (self.folder / "slurm.conf").write_text(text)
        for number in range(8):  # files that stand for devices: they are counted and assigned, and nobody opens them
            (self.folder / f"gpu{number}").touch()
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-7]\n")

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment, with its Python first and SLURM's programs finding this cluster."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *words: str | Path, check: bool = True, cwd: Path = ROOT, **variables: str) -> str:
        """Output of a command on the login node, run with further environment variables."""
        return self.head.run(*words, env={**self.environment, **variables}, cwd=cwd, check=check).stdout

    def submit(self, *words: str | Path, cwd: Path = ROOT, **variables: str) -> Job:
        """The job that `sbatch WORDS` makes; its log is in the cluster's folder."""
        output = f"--output={self.folder}/job-%j.log"
        return Job(self, self.run("sbatch", "--parsable", output, *words, check=True, cwd=cwd, **variables).split()[-1])

    def node_states(self) -> dict[str, str]:
        """Node -> what sinfo says of it; nothing while the controller does not answer."""
        lines = self.run("sinfo", "--noheader", "--Node", "--partition=work", "--format=%N %t", check=False)
        return dict(re.findall(r"^(node\d+) (\S+)$", lines, re.MULTILINE))

    def drain(self, node: str) -> None:
        """Give the node no further job. Returns when the controller has written that down, which it puts off for
        seconds: one that is killed before knows nothing of it when it is started again.
        """
        written, asked_s = self.folder / "state" / "node_state", time.time()
        self.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
        wait_until(lambda: written.exists() and written.stat().st_mtime > asked_s, 30, lambda: node)

    def resume(self, node: str) -> None:
        self.run("scontrol", "update", f"nodename={node}", "state=resume")

    def start_controller(self) -> None:
        log = self.folder / "slurmctld.out"
        self.head.start("slurmctld", "-D", log=log, env=self.environment)
        wait_until(lambda: "is UP" in self.run("scontrol", "ping", check=False), 30, log.read_text)

    def kill_controller(self) -> None:
        """Jobs go on, but nobody can be asked or told anything until `start_controller`."""
        for number in self.head.processes("slurmctld"):
            os.kill(number, signal.SIGKILL)

    def _start_slurmd(self, place: Place) -> None:
        place.start("slurmd", "-D", log=self.folder / place.name / "slurmd.out", env=self.environment)

    def _start_munged(self) -> None:
        files = {kind: self.folder / f"munge.{kind}" for kind in ("key", "socket", "pid", "log", "seed")}
        self.head.run("mungekey", "--create", f"--keyfile={files['key']}")
        log = self.folder / "munged.out"
        options = [f"--{kind}{'' if kind == 'socket' else '-file'}={path}" for kind, path in files.items()]
        self.head.start("munged", "--foreground", "--force", *options, log=log)
        wait_until(files["socket"].exists, 30, log.read_text)


class Job:
    """A batch job of a cluster."""

    def __init__(self, cluster: Cluster, number: str) -> None:
        self.cluster, self.number = cluster, number

    def facts(self) -> dict[str, str]:
        """What `scontrol show job` tells; nothing while the controller does not answer."""
        text = self.cluster.run("scontrol", "--oneliner", "show", "job", self.number, check=False)
        return dict(re.findall(r"(\w[\w:/]*)=(\S*)", text))

    @property
    def state(self) -> str:
        return self.facts().get("JobState", "unknown")

    @property
    def restarts(self) -> int:
        return int(self.facts()["Restarts"])

    @property
    def log(self) -> str:
        path = Path(self.facts().get("StdOut", "none"))
        return path.read_text(errors="replace") if path.is_file() else ""

    def wait_for(self, *states: str, timeout_s: float = 300) -> str:
        """Wait until it is in one of these states; the value is that one."""
        wait_until(lambda: self.state in states, timeout_s, lambda: f"{self.facts()}\n{self.log[-6000:]}")
        return self.state

    def wait_for_log(self, text: str, count: int = 1, timeout_s: float = 300) -> None:
        """Wait until the log has `text` so many times."""
        wait_until(lambda: self.log.count(text) >= count, timeout_s, lambda: f"{self.facts()}\n{self.log[-6000:]}")

    def cancel(self) -> None:
        self.cluster.run("scancel", self.number)

    def processes(self, *nodes: str) -> list[int]:
        """What of it runs on these nodes (default: on any)."""
        places = [self.cluster.nodes[name].place for name in nodes or self.cluster.nodes]
        return [number for place in places for number in place.processes() if _belongs(number, self.number)]


def _belongs(number: int, job: str) -> bool:
    try:
        return f"SLURM_JOB_ID={job}\0".encode() in Path(f"/proc/{number}/environ").read_bytes()
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], timeout_s: float, explain: Callable[[], object]) -> None:
    """Ask again and again. AssertionError with the explanation when it takes too long."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {explain()}"
        time.sleep(0.25)


@contextmanager
def restored(cluster: Cluster) -> Iterator[None]:
    """After the block no job is left and every node is as new, so that tests can share a cluster."""
    try:
        yield
    finally:
        for node in cluster.nodes.values():
            node.link("up")
            node.place.run("tc", "qdisc", "delete", "dev", "eth0", "root", check=False)
            if not node.place.processes("slurmd"):
                node.start()
        if not cluster.head.processes("slurmctld"):
            cluster.start_controller()
        cluster.run("scancel", "--user=root")
        wait_until(lambda: _all_idle(cluster), 90, cluster.node_states)


def _all_idle(cluster: Cluster) -> bool:
    states = cluster.node_states()
    for name, state in states.items():
        if state.startswith(("down", "drain")):
            cluster.resume(name)
    return states == dict.fromkeys(cluster.nodes, "idle")
