"""Two network namespaces with a cable between them, as two machines: the same bits, a cut cable.

Needs root, the command `ip`, and mpiexec of MPICH. The namespaces have names of their own, and are
deleted in the end.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from test_mpi_jobs import LIMIT, MPIEXEC, OVER_TCP, PATIENCE, SLOW, Job, hash_of, hashes

pytest.importorskip("mpi4py", reason="jobs of MPI need mpi4py")
A, B = (f"portnet-{os.getpid()}-{end}" for end in "ab")
LINK = "pn0"
LAUNCHER = """#!/bin/sh
# As ssh: options, a host, a command
while [ "${1#-}" != "$1" ]; do shift; done
case $1 in 10.83.0.1) host=%s ;; *) host=%s ;; esac
shift
exec ip netns exec "$host" sh -c "$*"
"""


def ip(*words, within=None):
    command = ["ip", *(["netns", "exec", within, "ip"] if within else []), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode:
        raise OSError(done.stderr)
    return done.stdout


def runs(pid):
    """Tell whether a process runs; one that has ended, and nobody has asked for, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def hosts(tmp_path):
    """Two hosts, 10.83.0.1 and 10.83.0.2: the options of mpiexec that start a rank on each."""
    if os.name != "posix" or os.geteuid() != 0 or not shutil.which("ip") or MPIEXEC is None:
        pytest.skip("network namespaces need root, ip and mpiexec")
    version = subprocess.run([MPIEXEC, "--version"], capture_output=True, text=True)
    if "HYDRA" not in version.stdout:
        pytest.skip("the options are those of MPICH's mpiexec")
    try:
        try:
            for name in (A, B):
                ip("netns", "add", name)
            ip("link", "add", LINK, "netns", A, "type", "veth", "peer", "name", LINK, "netns", B)
        except OSError as error:
            pytest.skip(f"no network namespaces here: {error}")
        for name, address in ((A, "10.83.0.1/24"), (B, "10.83.0.2/24")):
            ip("address", "add", address, "dev", LINK, within=name)
            ip("link", "set", LINK, "up", within=name)
            ip("link", "set", "lo", "up", within=name)
        for name in (A, B):
            began = time.monotonic()
            while "state UP" not in ip("link", "show", LINK, within=name):
                assert time.monotonic() - began < LIMIT
                time.sleep(0.02)
        launcher = tmp_path / "launcher"
        launcher.write_text(LAUNCHER % (A, B))
        launcher.chmod(0o755)
        yield ["-hosts", "10.83.0.1,10.83.0.2", "-launcher", "ssh", "-launcher-exec", str(launcher)]
    finally:
        for name in (A, B):
            with suppress(OSError):
                ip("netns", "del", name)


class TwoHosts(Job):
    """A job whose mpiexec runs on the first host."""

    def __init__(self, folder, hosts, change="", options=()):
        inside = ["ip", "netns", "exec", A]
        super().__init__(
            folder,
            2,
            change,
            options,
            OVER_TCP | {"UCX_NET_DEVICES": LINK},
            mpi=hosts,
            before=inside,
        )


def test_two_hosts_have_the_bits_of_one_process(tmp_path, hosts):
    change = """
sys.stdout.write(f"network {os.readlink('/proc/self/ns/net')}\\n")
"""
    status, printed = TwoHosts(tmp_path, hosts, change).ends(PATIENCE)
    assert status == 0, printed
    assert len(hashes(printed)) == 2
    assert len(set(re.findall(r"network (net:\S+)", printed))) == 2
    folder = tmp_path / "alone"
    folder.mkdir()
    assert set(hashes(printed)) == {hash_of(Job(folder, 1))}


@pytest.mark.parametrize("mended", [True, False], ids=["mended later", "Ctrl-C twice"])
def test_a_cut_cable_ends_the_ranks_of_both_hosts(tmp_path, hosts, mended):
    """mpiexec waits for the host that it cannot reach: until it can, or until Ctrl-C, twice."""
    job = TwoHosts(tmp_path, hosts, SLOW, ["--timeout", 4])
    pids = [job.pid(0), job.pid(1)]
    ip("link", "set", LINK, "down", within=A)
    began = time.monotonic()
    while any(map(runs, pids)):
        assert time.monotonic() - began < LIMIT
        time.sleep(0.05)
    if mended:
        ip("link", "set", LINK, "up", within=A)
    else:
        for _ in range(2):
            job.process.send_signal(signal.SIGINT)
            time.sleep(0.5)
    status, printed = job.ends()
    assert status == 75 if mended else status != 0, printed
    assert "rank 0 has waited 4 s for ranks on other machines" in printed
