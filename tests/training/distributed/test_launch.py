"""Real processes as torchrun, srun and Kubernetes start them; and the environments that they would see."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from npconvnet.errors import InputError
from npconvnet.training.distributed import launch
from npconvnet.training.distributed.launch import enter_mpi, started_by_mpi

#: Seconds after which a process is stuck. None is waited for where the test passes.
LONG = 60

SCRIPT = """
import os, signal, sys, time
from npconvnet.errors import InputError
from npconvnet.training.distributed.launch import enter_mpi

def stop(number, _):
    stops.append(number)

try:
    entered = enter_mpi()
except InputError as error:
    sys.exit(f"error: {error}")
if not entered:
    sys.exit("alone")
from mpi4py import MPI
world = MPI.COMM_WORLD
total = world.allreduce(10**world.rank)
cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
sys.stdout.write(f"rank {world.rank}/{world.size} {total} {os.environ['WHO']} {cores} {sys.argv[2:]}\\n")
if sys.argv[1] == "wait":
    stops = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    world.Barrier()
    sys.stdout.write(f"process {os.getpid()}\\n")
    sys.stdout.flush()
    while not stops:
        time.sleep(0.01)
    time.sleep(0.3)
    sys.exit(130 if len(stops) == 1 else f"stopped by {stops}")
if sys.argv[1] == "die" and world.rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(0.3)  # what was written is passed on, before a failure ends all
sys.exit(int(sys.argv[1]) if sys.argv[1].isdigit() else 0)
"""

OF_LAUNCHERS = ("PMI", "OMPI_", "SLURM_", "TORCHELASTIC_", "MASTER_")


def bare_environment():
    """That of a process that nobody started with others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OF_LAUNCHERS)}
    return {name: value for name, value in kept.items() if name not in ("RANK", "WORLD_SIZE")}


@pytest.fixture
def port():
    """A MASTER_PORT that is free, as the one after it is; the system gives these to nobody by itself."""
    for port in range(20000 + os.getpid() % 5000, 30000, 2):
        try:
            with socket.create_server(("", port)), socket.create_server(("", port + 1)):
                return port
        except OSError:
            continue
    raise AssertionError("no free ports")


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def start(script):
    """Starts the script as a process with these variables and nobody else's."""
    started = []

    def start(*arguments, variables, **more):
        started.append(
            subprocess.Popen(
                [sys.executable, script, *arguments],
                env=bare_environment() | variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                **more,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def as_torchrun(rank, size, port, **more):
    given = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WHO": f"who{rank}"}
    return {name: str(value) for name, value in (given | more).items()}


def outcome(processes):
    """(exit statuses, sorted lines on standard output, standard error)."""
    written = [process.communicate(timeout=LONG) for process in processes]
    lines = sorted(line for out, _ in written for line in out.splitlines())
    return [process.returncode for process in processes], lines, "".join(error for _, error in written)


def ranks(lines):
    """(rank/size, sum, who) of each rank that spoke."""
    return [tuple(line.split()[1:4]) for line in lines if line.startswith("rank ")]


# ---- Who started this process ---------------------------------------------------------------------------------------


@pytest.fixture
def environment(monkeypatch):
    """The environment of this process, without a launcher's variables until some are set."""
    for name in os.environ.keys() - bare_environment().keys():
        monkeypatch.delenv(name)

    def set_all(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    return set_all


def test_a_process_alone(environment):
    assert enter_mpi() is False


@pytest.mark.parametrize(
    "variables",
    [
        {"PMI_RANK": 0, "PMI_SIZE": 2, "PMI_FD": 9},
        {"PMI_ID": 0, "PMI_PORT": "node:4711"},
        {"PMIX_RANK": 1, "PMIX_NAMESPACE": "slurm.pmix.7.0"},
        {"OMPI_COMM_WORLD_RANK": 0, "OMPI_COMM_WORLD_SIZE": 2},
    ],
    ids=["hydra", "hydra -pmi-port", "srun --mpi=pmix", "open mpi"],
)
def test_an_mpi_launcher(environment, variables):
    environment(**variables)
    assert started_by_mpi()
    assert enter_mpi() is True


def test_an_mpi_launcher_inside_what_set_ranks_of_its_own(environment):
    environment(PMI_RANK=1, PMI_SIZE=2, RANK=0, WORLD_SIZE=4, SLURM_PROCID=0, SLURM_STEP_NUM_TASKS=2)
    assert enter_mpi() is True


def test_a_job_of_one_process(environment):
    environment(RANK=0, WORLD_SIZE=1)
    assert enter_mpi() is False


def slurm_job():
    """What a batch script sees of a job of 4 tasks."""
    return {
        "SLURM_JOB_ID": "200505",
        "SLURM_NTASKS": "4",
        "SLURM_NPROCS": "4",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_JOB_NODELIST": "gnode[10,20,25,37]",
        "SLURM_TASKS_PER_NODE": "1(x4)",
        "SLURM_TASK_PID": "16360",
    }


def slurm_task(rank, size=4, nodes="gnode[10,20,25,37]", **more):
    """What one of its tasks, started by srun, sees."""
    step = {"SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": str(size), "SLURM_STEP_NODELIST": nodes}
    return slurm_job() | step | {"SLURM_PROCID": str(rank), "SLURM_NTASKS": str(size)} | more


def test_python_in_a_batch_script_without_srun_is_alone(environment):
    environment(**slurm_job())
    assert enter_mpi() is False


def test_python_in_an_interactive_step_is_alone(environment):
    environment(**slurm_task(0, size=1) | {"SLURM_NTASKS": "4"})
    assert enter_mpi() is False


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node[001-004,007]", "node001"),
        ("gnode[10,20,25,37]", "gnode10"),
        ("login,node[3-4]", "login"),
        ("node7", "node7"),
        ("node-12.cluster.org", "node-12.cluster.org"),
        ("rack[2-3]n[08-09]-ib", "rack2n08-ib"),
    ],
)
def test_the_first_host_of_slurm(nodes, first):
    place = launch._given_place(slurm_task(3, nodes=nodes))
    assert place is not None
    assert (place.rank, place.size, place.address) == (3, 4, first)


def test_ports_of_slurm_are_alike_in_a_step_and_differ_between_steps():
    steps = [[slurm_task(rank, SLURM_STEP_ID=str(step)) for rank in range(4)] for step in range(3)]
    ports = [{place.port for task in tasks if (place := launch._given_place(task))} for tasks in steps]
    assert all(len(each) == 1 for each in ports)
    assert len(set.union(*ports)) == 3
    assert all(15000 < port <= 30000 for port in set.union(*ports))


def test_what_the_user_sets_comes_before_what_slurm_says():
    place = launch._given_place(slurm_task(1, MASTER_ADDR="10.0.0.7", MASTER_PORT="29500"))
    assert place == (1, 4, "10.0.0.7", 29501)


def test_torchrun_inside_srun_comes_before_srun(environment):
    variables = slurm_task(1, size=2, PMIX_RANK="1") | as_torchrun(5, 8, 29500, TORCHELASTIC_RUN_ID="none")
    environment(**variables)
    assert not started_by_mpi()
    assert launch._given_place(variables) == (5, 8, "127.0.0.1", 29501)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"RANK": "two"}, "RANK is 'two'"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is ''"),
        ({"MASTER_PORT": "29500/tcp"}, "MASTER_PORT is '29500/tcp'"),
        ({"RANK": "4"}, "rank 4 of 4"),
        ({"RANK": "-1"}, "rank -1 of 4"),
        ({"WORLD_SIZE": "0"}, "rank 1 of 0"),
        ({"MASTER_PORT": "65535"}, ":65535"),
        ({"MASTER_PORT": "0"}, ":0"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR"),
        ({"MASTER_ADDR": None}, "without MASTER_ADDR; set"),
        ({"MASTER_PORT": None}, "without MASTER_PORT; set"),
        ({"RANK": None, "MASTER_ADDR": None}, "without RANK, MASTER_ADDR; set"),
        ({"WORLD_SIZE": None, "MASTER_PORT": None}, "without WORLD_SIZE, MASTER_PORT; set"),
    ],
    ids=str,
)
def test_rubbish_is_named_in_one_line(environment, changed, named):
    variables = as_torchrun(1, 4, 29500) | changed
    environment(**{name: value for name, value in variables.items() if value is not None})
    with pytest.raises(InputError) as raised:
        enter_mpi()
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_step_of_slurm_that_is_not_told_in_full_is_named(environment):
    variables = slurm_task(1)
    del variables["SLURM_PROCID"], variables["SLURM_STEP_NODELIST"]
    environment(**variables)
    with pytest.raises(InputError, match="without SLURM_PROCID, SLURM_STEP_NODELIST; set"):
        enter_mpi()


def test_without_hydra_the_way_out_is_named(environment, monkeypatch, tmp_path):
    environment(**as_torchrun(1, 4, 29500), PATH=tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(InputError, match=r"rank 1 of 4 was not started by MPI.*pip install mpi4py mpich, or"):
        enter_mpi()


# ---- The ranks meet -------------------------------------------------------------------------------------------------


def greeting(rank, size, *arguments):
    return json.dumps([rank, size, arguments]) + "\n"


def greet(port, line):
    """Calls rank 0, as soon as it listens, and says `line`."""
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port + 1), LONG)
        except ConnectionRefusedError:
            time.sleep(0.02)
            continue
        connection.sendall(line.encode())
        return connection


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(launch, "_SILENCE", 0.5)
    monkeypatch.setattr(launch, "PATIENCE", 1.0)


@pytest.mark.usefixtures("impatient")
def test_rank_0_names_those_who_do_not_come(environment, monkeypatch, port, capsys):
    environment(**as_torchrun(0, 5, port))
    monkeypatch.setattr(sys, "argv", ["script.py", "0"])
    calls: list[socket.socket] = []
    caller = threading.Thread(target=lambda: calls.extend(greet(port, greeting(rank, 5, "0")) for rank in (2, 4)))
    caller.start()
    with pytest.raises(InputError, match=r"of 5 ranks, 1, 3 did not come to 127.0.0.1:\d+ within 1 seconds"):
        enter_mpi()
    caller.join()
    for call in calls:
        call.close()
    assert capsys.readouterr().err == f"waiting at 127.0.0.1:{port + 1} for ranks 1, 3 (of 5)\n"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("address", "reason"), [("127.0.0.1", "refused"), ("node1.invalid", r"\[Errno"), ("node1..", "label")]
)
def test_a_rank_names_rank_0_where_that_one_does_not_come(environment, port, capsys, address, reason):
    environment(**as_torchrun(3, 5, port, MASTER_ADDR=address))
    with pytest.raises(InputError, match=rf"rank 3 did not reach rank 0 at {address}:{port + 1}.*{reason}"):
        enter_mpi()
    said = capsys.readouterr().err
    assert re.fullmatch(rf"waiting for rank 0 at {address}:{port + 1} \(.*{reason}.*\)\n", said)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (greeting(1, 3, "a", "b"), "rank 1 was started as one of 3 ranks, rank 0 as one of 2"),
        (greeting(2, 3, "a", "b"), "rank 2 was started as one of 3 ranks, rank 0 as one of 2"),
        (greeting(1, 2, "a", "c"), "rank 1 was started with ['a', 'c'], rank 0 with ['a', 'b']; "),
        (greeting(1, 2, "b", "b"), "rank 1 was started with ['b'], rank 0 with ['a']; "),
        (greeting(1, 2, "a"), "rank 1 was started with ['a'], rank 0 with ['a', 'b']; "),
        (
            greeting(1, 2, "a", "b", "\x1b\n\udcff"),
            r"rank 1 was started with ['b', '\x1b\n\udcff'], rank 0 with ['b']; ",
        ),
        (greeting(1, 2, "a", "x" * 1000), f"rank 1 was started with ['a', '{'x' * 193}, rank 0 with ['a', 'b']; "),
        (greeting(1, 2, "a", {"b": []}), "rank 1 was started with ['a', {'b': []}], rank 0 with ['a', 'b']; "),
    ],
)
def test_rank_0_refuses_a_rank_that_was_started_otherwise(environment, monkeypatch, port, line, message):
    environment(**as_torchrun(0, 2, port))
    monkeypatch.setattr(sys, "argv", ["script.py", "a", "b"])
    threading.Thread(target=lambda: greet(port, line).close()).start()
    with pytest.raises(InputError) as raised:
        enter_mpi()
    assert str(raised.value).startswith(message)
    assert str(raised.value).isprintable()


def test_a_rank_ends_when_rank_0_hangs_up(environment, monkeypatch, port):
    environment(**as_torchrun(3, 5, port))
    with socket.create_server(("", port + 1)) as server:

        def refuse():
            connection, _ = server.accept()
            assert connection.recv(64) == b'[3, 5, ["a b", "\\udcff"]]\n'
            connection.close()

        monkeypatch.setattr(sys, "argv", ["script.py", "a b", "\udcff"])
        threading.Thread(target=refuse).start()
        with pytest.raises(InputError, match="has hung up on rank 3"):
            enter_mpi()


def test_rank_0_names_a_port_that_is_taken(environment, port):
    environment(**as_torchrun(0, 5, port))
    with (
        socket.create_server(("", port + 1)),
        pytest.raises(InputError, match=f"rank 0 cannot listen on port {port + 1}.*choose another MASTER_PORT"),
    ):
        enter_mpi()


def test_strangers_and_ranks_that_start_again_do_no_harm(start, port):
    first = start("0", variables=as_torchrun(0, 3, port))
    of_no_rank = [
        greeting(0, 3),
        greeting(3, 3),
        greeting(-1, 3),
        greeting("1", 3),
        greeting(1.0, 3),
        "[1, 3]\n",
        "1\n",
    ]
    for line in ("GET / HTTP/1.0\r\n\r\n", "[" * 100000 + "\n", "9" * 10000 + "\n", "\xff" * 100, "", *of_no_rank):
        greet(port, line).close()
    greet(port, greeting(1, 3, "0")).close()  # a process of rank 1 that ends too early
    others = [start("0", variables=as_torchrun(rank, 3, port)) for rank in (2, 1)]
    statuses, written, error = outcome([first, *others])
    assert statuses == [0, 0, 0], error
    assert ranks(written) == [(f"{rank}/3", "111", f"who{rank}") for rank in range(3)]


# ---- Real jobs ------------------------------------------------------------------------------------------------------


def test_two_machines_of_two_ranks(start, port):
    jobs = [start("0", "a b", "'*'", variables=as_torchrun(rank, 4, port, LOCAL_RANK=rank % 2)) for rank in range(4)]
    statuses, lines, error = outcome(jobs)
    assert statuses == [0] * 4
    assert error == ""
    assert ranks(lines) == [(f"{rank}/4", "1111", f"who{rank}") for rank in range(4)]
    assert all(line.endswith("""['a b', "'*'"]""") for line in lines)
    assert len(lines) == 4  # and nothing of Hydra's own


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no process to cores")
def test_each_rank_keeps_the_cores_it_was_given(start, port):
    all_cores = os.sched_getaffinity(0)
    first = start("0", variables=as_torchrun(0, 2, port))
    second = start("0", variables=as_torchrun(1, 2, port), preexec_fn=lambda: os.sched_setaffinity(0, {min(all_cores)}))
    _, lines, _ = outcome([first, second])
    assert [int(line.split()[4]) for line in lines] == [len(all_cores), 1]


def test_a_rank_with_other_arguments_is_refused(start, port):
    started = [start("0", "--seed", seed, variables=as_torchrun(rank, 2, port)) for rank, seed in enumerate("79")]
    statuses, lines, error = outcome(started)
    assert statuses == [1, 1]
    assert lines == []
    assert "error: rank 1 was started with ['--seed', '9'], rank 0 with ['--seed', '7']; " in error
    assert "has hung up on rank 1" in error


def test_the_exit_status_of_a_rank_is_that_of_the_job(start, port):
    statuses, _, _ = outcome([start("3", variables=as_torchrun(rank, 2, port)) for rank in range(2)])
    assert statuses[0] == 3


def test_a_rank_that_dies_ends_the_job(start, port):
    statuses, _, _ = outcome([start("die", variables=as_torchrun(rank, 2, port)) for rank in range(2)])
    assert statuses[0] not in (0, None)


def test_tasks_of_srun(start):
    tasks = [
        start("0", variables=slurm_task(rank, 2, "localhost", SLURM_JOB_ID=str(os.getpid()), WHO=f"who{rank}"))
        for rank in range(2)
    ]
    statuses, lines, error = outcome(tasks)
    assert statuses == [0, 0], error
    assert ranks(lines) == [("0/2", "11", "who0"), ("1/2", "11", "who1")]


def test_torchrun_inside_srun_with_an_mpi_plugin(start, port):
    """All workers of a torchrun inherit the one PMI rank of the task that is their torchrun."""
    outer = {"PMI_RANK": "0", "PMI_SIZE": "1", "PMI_FD": "99", "PMIX_RANK": "0", "PMIX_NAMESPACE": "slurm.pmix.7.0"}
    workers = [
        start("0", variables=outer | as_torchrun(rank, 2, port, TORCHELASTIC_RUN_ID="none")) for rank in range(2)
    ]
    statuses, lines, error = outcome(workers)
    assert statuses == [0, 0], error
    assert ranks(lines) == [("0/2", "11", "who0"), ("1/2", "11", "who1")]


@pytest.mark.parametrize("status", [0, 3])
def test_torchrun(script, port, status):
    pytest.importorskip("torch")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    done = subprocess.run(
        [*torchrun, script, str(status)],
        env=bare_environment() | {"WHO": "who"},
        capture_output=True,
        text=True,
        timeout=2 * LONG,
    )
    assert ranks(sorted(done.stdout.splitlines())) == [("0/2", "11", "who"), ("1/2", "11", "who")], done.stderr
    assert bool(done.returncode) == bool(status)


# ---- Ends -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def waiting(start, port):
    """(processes that were started, numbers of the processes of their ranks), all of which wait to be stopped."""
    started = [start("wait", variables=as_torchrun(rank, 2, port)) for rank in range(2)]
    pids: list[int] = []
    while len(pids) < 2:
        line = started[0].stdout.readline()
        assert line, started[0].stderr.read()
        if line.startswith("process "):
            pids.append(int(line.split()[1]))
    return started, pids


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_reaches_each_rank_once(waiting, number):
    started, _ = waiting
    for process in reversed(started):  # as torchrun and srun do
        process.send_signal(number)
    statuses, _, error = outcome(started)
    assert statuses[0] == 130, error
    assert "stopped by" not in error


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the system has no pidfd_open")
def test_nothing_outlives_rank_0_when_that_is_killed(waiting):
    started, pids = waiting
    descriptors = [os.pidfd_open(pid) for pid in pids]
    started[0].kill()
    for descriptor in descriptors:
        assert select.select([descriptor], [], [], LONG)[0]
        os.close(descriptor)
    assert started[1].wait(LONG) != 0
