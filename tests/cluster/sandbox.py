"""Processes in namespaces of their own that end, all of them, with whoever made them.

One PID, mount, network and host-name namespace for the whole, and within it one network and host name for each node of
a cluster. The kernel ends every process of a PID namespace with its first one, and the namespaces, mounts, links and
bridges with their last process. The first one here waits at a pipe that only this process holds: however this process
ends, nothing is left. Two sandboxes share no name and no address, because nothing of them is outside.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_FIRST = """
hostname "$2" && ip link set lo up && mount --bind "$1/hosts" /etc/hosts && echo ready && read -r
"""
_PROGRAMS = ("unshare", "nsenter", "ip", "tc", "mount", "hostname")


class Place:
    """A network and a host name within a sandbox: where commands run."""

    def __init__(self, sandbox: Sandbox, name: str, namespaces: Path | None) -> None:
        self.sandbox, self.name = sandbox, name
        # A node's namespaces are files that are seen from inside only, so they are entered in a second go.
        files = ["nsenter", f"--net={namespaces}/net", f"--uts={namespaces}/uts", "--"]
        self._enter = ["--mount", "--pid", "--", *files] if namespaces else ["--mount", "--pid", "--net", "--uts", "--"]

    def command(self, *words: str | Path, cwd: Path = Path("/")) -> list[str]:
        """The words by which anybody can run a command here, as root."""
        return ["nsenter", f"--target={self.sandbox.pid}", *self._enter, "env", f"--chdir={cwd}", *map(str, words)]

    def run(
        self,
        *words: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path = Path("/"),
        check: bool = True,
        timeout_s: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. AssertionError with its output when it fails and `check` is set."""
        done = subprocess.run(
            self.command(*words, cwd=cwd),
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert not check or done.returncode == 0, f"{self.name}: {words} ended with {done.returncode}: {done.stdout}"
        return done

    def start(
        self, *words: str | Path, log: Path, env: Mapping[str, str] | None = None, cwd: Path = Path("/")
    ) -> subprocess.Popen[bytes]:
        """Start a command; what it prints goes to the end of `log`."""
        with log.open("ab") as out:
            command = self.command(*words, cwd=cwd)
            return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def processes(self, program: str | None = None) -> list[int]:
        """Process numbers, as the machine counts them, of what runs in this network; of one program only if named."""
        own = self.run("readlink", "/proc/self/ns/net").stdout.strip()
        return [
            number
            for number, net, comm in _all_processes()
            if net == own and program in (None, comm) and number != self.sandbox.pid
        ]


class Sandbox:
    """Namespaces around everything that is started in them; `outside` is the place that all nodes are linked to."""

    def __init__(self, folder: Path, hosts: Mapping[str, str], name: str) -> None:
        """`folder` holds the namespaces' files; `hosts`: name -> address, what /etc/hosts says inside; the first place
        has the host name `name`."""
        self._folder = folder
        lines = ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in hosts.items())]
        (folder / "hosts").write_text("\n".join(lines) + "\n")
        flags = ["--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--net", "--uts"]
        self._first = subprocess.Popen(
            ["unshare", *flags, "bash", "-c", _FIRST, "sandbox", str(folder), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._first.stdout is not None
        answer = self._first.stdout.readline()
        assert answer == "ready\n", f"no namespaces: {answer}"
        self.pid = _children(self._first.pid)[0]
        self.outside = Place(self, name, None)
        self.outside.run("ip", "link", "add", "bridge", "type", "bridge")
        self.outside.run("ip", "address", "add", f"{hosts[name]}/16", "dev", "bridge")
        self.outside.run("ip", "link", "set", "bridge", "up")

    def add_place(self, name: str, address: str) -> Place:
        """A network with one link, eth0, to the bridge, and a host name."""
        folder = self._folder / name
        folder.mkdir()
        for kind in ("net", "uts"):
            (folder / kind).touch()
        self.outside.run("unshare", f"--net={folder}/net", f"--uts={folder}/uts", "hostname", name)
        place = Place(self, name, folder)
        # The link is made inside, where its other end is given to the first process's network.
        place.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", "1")
        place.run("ip", "address", "add", f"{address}/16", "dev", "eth0")
        for device in ("lo", "eth0"):
            place.run("ip", "link", "set", device, "up")
        self.outside.run("ip", "link", "set", name, "master", "bridge", "up")
        return place

    def close(self) -> None:
        """End everything."""
        assert self._first.stdin is not None
        self._first.stdin.close()
        self._first.wait(timeout=30)


def missing_programs(names: Sequence[str] = ()) -> list[str]:
    """What a sandbox, and the programs named, need and this machine has not."""
    return [name for name in (*_PROGRAMS, *names) if shutil.which(name) is None]


def _children(number: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


def _all_processes() -> list[tuple[int, str, str]]:
    """Number, network namespace and program name of every process that this one may see."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                entry = int(folder.name), str((folder / "ns/net").readlink()), (folder / "comm").read_text().strip()
            except OSError:
                continue  # it ended meanwhile
            found.append(entry)
    return found
