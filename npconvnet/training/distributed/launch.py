"""Who started this process; and MPI, for ranks that a launcher without MPI has started.

torchrun, Kubernetes' PyTorchJob and `srun` without PMI tell each process its rank and the address of the first one. MPI
cannot begin with that, but Hydra, the launcher of MPICH, can: `mpiexec -launcher manual` waits until its proxies have
been started by someone else, and each proxy starts an MPI process. Thus

    rank 0        listens until all others have called; then starts mpiexec, and tells each how to start its proxy
    every rank    becomes a proxy, which runs rank 0's command again, as an MPI process

So all ranks are started by the same command, with Python at the same path; arguments that differ are refused.

There is a proxy for each rank, not for each machine, so that its cores, GPUs and environment stay those that the
launcher gave it. (Ranks on one machine still share memory, by UCX.) SIGINT and SIGTERM are passed on to all ranks by
the process of rank 0, and ignored by the others', as launchers send them to all and a rank should get them once.

As with torchrun and MPI itself, nobody proves who he is: the network between the machines has to be trusted. A stranger
who calls rank 0 may take the place of a rank, and the start fails; what he says is a line of JSON that is compared, no
more. The others call nobody but MASTER_ADDR, whom their proxies obey in any case.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import zip_longest
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple, NoReturn

from npconvnet.errors import InputError

#: Seconds that a rank waits for the others, as long as torchrun waits for its own.
PATIENCE = 600.0
#: Seconds after which it says for whom; of one call and its greeting; and between two calls to a rank 0 not there yet.
_SILENCE, _GREETING, _REDIAL = 10.0, 5.0, 0.2
#: Characters that are read of a greeting; nobody trains with longer arguments.
_LONGEST_GREETING = 1 << 20
#: Set by Hydra (MPICH, Intel MPI) and `srun --mpi=pmi2`; by `mpiexec -pmi-port`; by Open MPI and `srun --mpi=pmix`.
_BY_MPI = {"PMI_RANK", "PMI_ID", "PMIX_RANK", "OMPI_COMM_WORLD_RANK"}
_BY_TORCHRUN, _BY_SRUN = "TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS"
#: What the proxies shall not inherit: how a launcher further out, such as an srun of torchrun, names its ranks.
_OUTER = ("PMI", "OMPI_", "HYDI_", "TORCHELASTIC_")
#: Where rank 0 reaches mpiexec; the others put MASTER_ADDR in its place.
_HERE = "127.0.0.1"


class _Place(NamedTuple):
    rank: int
    size: int
    address: str
    port: int

    @property
    def meeting(self) -> str:
        return f"{self.address}:{self.port}"


def started_by_mpi() -> bool:
    """Whether an MPI launcher started this process. MPI then knows the other ranks."""
    return bool(_BY_MPI & os.environ.keys()) and _BY_TORCHRUN not in os.environ


def enter_mpi() -> bool:
    """Whether MPI connects this process to others: True if `started_by_mpi`, False for a process alone.

    Where a launcher without MPI started it with others, this does not return: MPI runs the same command again, and the
    process of rank 0 ends with its exit status, the one that counts: that of the others is 0 even if their rank is
    killed. That launcher has set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or is SLURM's srun. The ranks meet on
    the port after MASTER_PORT, as torchrun's own store is on that one.

    Raises InputError where one of these is missing or makes no sense, where MPICH is missing, and where ranks do not
    come in time or were started otherwise than rank 0.
    """
    if started_by_mpi():
        return True
    place = _given_place(os.environ)
    if place is not None:
        _begin_mpi(place)
    return False


# ---- What the launcher says -----------------------------------------------------------------------------------------


def _given_place(environment: Mapping[str, str]) -> _Place | None:
    if _BY_SRUN in environment:  # in a batch script there are SLURM_NTASKS and SLURM_PROCID, but none of a step
        environment = {**_by_srun(environment), **environment}
    if not {"RANK", "WORLD_SIZE"} & environment.keys() or environment.get("WORLD_SIZE") == "1":
        return None
    _require(environment, "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    rank, size, port = (_number(environment, name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    address = environment["MASTER_ADDR"]
    if not (0 <= rank < size and address and 0 < port < 65535):
        raise InputError(
            f"rank {rank} of {size}, to meet at {address}:{port}, cannot be; "
            "look at RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
        )
    return _Place(rank, size, address, port + 1)


def _by_srun(slurm: Mapping[str, str]) -> dict[str, str]:
    """The same in torchrun's words. The port is below those that the system gives away, and another for each step."""
    _require(slurm, "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_STEP_NODELIST")
    step = 16 * _number(slurm, "SLURM_JOB_ID") + _number(slurm, "SLURM_STEP_ID")
    return {
        "RANK": slurm["SLURM_PROCID"],
        "WORLD_SIZE": slurm[_BY_SRUN],
        "MASTER_ADDR": _first_host(slurm["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": str(15000 + step % 15000),
    }


def _first_host(nodes: str) -> str:
    """node001 of node[001-004,007],other."""
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes).split(",")[0]


def _require(environment: Mapping[str, str], *names: str) -> None:
    if missing := ", ".join(name for name in names if name not in environment):
        raise InputError(f"this process seems to be started as one of several, but without {missing}; set that, too")


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise InputError(f"{name} is {environment[name]!r}, which is not a number") from None


# ---- The ranks meet -------------------------------------------------------------------------------------------------


def _await_others(place: _Place) -> dict[int, socket.socket]:
    """The connections to rank 0 of all others, by rank."""
    callers: dict[int, socket.socket] = {}
    start, waits = time.monotonic(), [_SILENCE, PATIENCE]
    try:
        server = socket.create_server(("", place.port))
    except OSError as error:
        raise InputError(f"rank 0 cannot listen on port {place.port} ({error}); choose another MASTER_PORT") from error
    with server:
        while missing := _missing(callers, place.size):
            server.settimeout(max(start + waits[0] - time.monotonic(), 1e-3))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                names = ", ".join(map(str, missing))
                if waits.pop(0) == PATIENCE:
                    raise InputError(
                        f"of {place.size} ranks, {names} did not come to {place.meeting} within {PATIENCE:g} seconds; "
                        "see whether they run, and reach this machine"
                    ) from None
                print(f"waiting at {place.meeting} for ranks {names} (of {place.size})", file=sys.stderr)
            else:
                callers[_who(connection, place.size)] = connection  # the last counts: a rank may have been restarted
    return callers


def _missing(callers: dict[int, socket.socket], size: int) -> list[int]:
    gone = wait(list(callers.values()), timeout=0)  # who has greeted says no more, so there is but an end to be read
    return [rank for rank in range(1, size) if rank not in callers or callers[rank] in gone]


def _who(connection: socket.socket, size: int) -> int:
    """The rank of a caller; 0 for a stranger. Raises InputError for a rank that was started otherwise than rank 0."""
    connection.settimeout(_GREETING)
    try:
        with connection.makefile() as lines:
            greeting = json.loads(lines.readline(_LONGEST_GREETING))
    except (OSError, ValueError, RecursionError):
        return 0
    match greeting:
        case [int(rank), int(size_there), [*arguments]] if 0 < rank < size_there:
            if size_there != size:
                raise InputError(f"rank {rank} was started as one of {size_there} ranks, rank 0 as one of {size}")
            _require_same(rank, arguments, sys.argv[1:])
            return rank
    return 0


def _require_same(rank: int, there: list[str], here: list[str]) -> None:
    for i, (argument, expected) in enumerate(zip_longest(there, here)):
        if argument != expected:
            shown = slice(max(i - 1, 0), i + 1)  # with the option whose value it may be
            raise InputError(
                f"rank {rank} was started with {there[shown]!s:.200}, rank 0 with {here[shown]!s:.200}; "
                "start all ranks by the same command"
            )


def _call_first(place: _Place) -> str:
    """The arguments of this rank's proxy, from rank 0."""
    start, silent = time.monotonic(), True
    while True:
        try:
            with socket.create_connection((place.address, place.port), _GREETING) as connection:
                connection.settimeout(PATIENCE)
                with connection.makefile("rw") as lines:
                    print(json.dumps([place.rank, place.size, sys.argv[1:]]), file=lines, flush=True)
                    arguments = lines.readline()
            break
        except (OSError, UnicodeError) as error:  # the latter for names that cannot be any machine's
            waited = time.monotonic() - start
            if waited > PATIENCE:
                raise InputError(
                    f"rank {place.rank} did not reach rank 0 at {place.meeting} within {PATIENCE:g} seconds ({error}); "
                    "see whether it runs, and MASTER_ADDR and MASTER_PORT"
                ) from error
            if silent and waited > _SILENCE:
                print(f"waiting for rank 0 at {place.meeting} ({error})", file=sys.stderr)
                silent = False
            time.sleep(_REDIAL)
    if not arguments:
        raise InputError(
            f"rank 0 at {place.meeting} has hung up on rank {place.rank}: "
            f"it has failed and says why, or there is another rank {place.rank}"
        )
    return arguments.replace(_HERE, place.address)


# ---- Hydra ----------------------------------------------------------------------------------------------------------


def _begin_mpi(place: _Place) -> NoReturn:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    proxy = shutil.which("hydra_pmi_proxy", path=path)
    if proxy is None:
        raise InputError(
            f"rank {place.rank} of {place.size} was not started by MPI, and MPICH, which could connect it, "
            "is not installed; run: pip install mpi4py mpich, or start with mpiexec"
        )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OUTER)}
    sys.stdout.flush()
    if place.rank == 0:
        sys.exit(_run_mpiexec(place, proxy, environment))
    os.execve(proxy, [proxy, *_call_first(place).split()], environment)


def _run_mpiexec(place: _Place, proxy: str, environment: dict[str, str]) -> int:
    """Brings all ranks together and passes on what they write; returns mpiexec's exit status."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < (files := 4 * place.size + 100):  # mpiexec keeps three open for each rank
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(files, hard), hard))
    callers = _await_others(place)
    names = ",".join(map(str, range(place.size)))  # of proxies; numbers, as those are not looked up by DNS
    options = f"-launcher manual -rmk user -genvnone -localhost {_HERE} -hosts {names} -n {place.size}"
    mpiexec = subprocess.Popen(
        [Path(proxy).with_name("mpiexec.hydra"), *options.split(), sys.executable, *sys.orig_argv[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # so that Ctrl-C in a terminal reaches it once, from here
        preexec_fn=_end_with_parent,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: mpiexec.send_signal(received))
    assert mpiexec.stdout is not None
    launches = (line for line in mpiexec.stdout if line.startswith(b"HYDRA_LAUNCH:"))  # and a proxy's command line
    for rank, line in zip(range(place.size), launches, strict=False):
        arguments = line[line.index(b"--control-port") :]
        if rank == 0:
            subprocess.Popen([proxy, *arguments.decode().split()], stdin=subprocess.DEVNULL, env=environment)
        else:
            callers[rank].sendall(arguments)
            callers[rank].close()
    mpiexec.stdout.readline()  # HYDRA_LAUNCH_END
    for line in mpiexec.stdout:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    return mpiexec.wait()


def _end_with_parent() -> None:
    """Run before mpiexec: the system shall kill it when its parent ends, however that was killed. Its ranks follow."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
