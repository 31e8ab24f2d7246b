# SPDX-License-Identifier: GPL-2.0
"""The workloads: programs from Debian's packages, set up as an administrator would."""

import ctypes
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import configs

PLACE = Path("/tmp/workloads")
CGROUPS = Path("/sys/fs/cgroup")
# A virtual machine that QEMU emulates in an emulated guest takes minutes to boot.
PATIENCE_SECONDS = 1800
_PR_SET_MEMORY_MERGE = 67


def _opt_in() -> None:
    """Lets ksmd merge all memory of this process and of its children, as MemoryKSM=yes does."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_MEMORY_MERGE, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_MEMORY_MERGE")


@dataclass
class Running:
    """The processes of a workload, in a cgroup of their own."""

    cgroup: Path
    opts_in: bool
    """Whether they are registered with mainline KSM."""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *command: str, stdin: int | None = None) -> subprocess.Popen[bytes]:
        """Starts a program."""

        def prepare() -> None:
            (self.cgroup / "cgroup.procs").write_text("0")
            if self.opts_in:
                _opt_in()

        log = (PLACE / "log").open("ab")
        one: subprocess.Popen[bytes] = subprocess.Popen(
            command, preexec_fn=prepare, stdin=stdin, stdout=log, stderr=log
        )
        self.started.append(one)
        return one

    def pids(self) -> list[int]:
        """All processes of the cgroup."""
        return [int(pid) for pid in (self.cgroup / "cgroup.procs").read_text().split()]

    def end(self) -> None:
        """Ends all of them."""
        (self.cgroup / "cgroup.kill").write_text("1")
        for one in self.started:
            one.wait()
        while self.pids():
            time.sleep(0.1)


@dataclass(frozen=True)
class Workload:
    """Programs that run at the same time."""

    name: str
    title: str
    begin: Callable[[Running], None]
    """Starts them, and has them do what they are for until their memory is filled."""


def _place(name: str, text: str) -> str:
    path = PLACE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def _config(name: str, text: str) -> str:
    return _place(name, text.format(place=PLACE))


def wait_port(port: int) -> None:
    """Waits until a server accepts connections."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=10).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _request(ports: Sequence[int], count: int, clients: int) -> None:
    """Sends `count` requests to each port, from as many clients at a time."""
    for port in ports:
        wait_port(port)

    def client(port: int) -> None:
        for _ in range(count // clients):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=300) as answer:
                answer.read()

    clients_of = [port for port in ports for _ in range(clients)]
    threads = [threading.Thread(target=client, args=(port,)) for port in clients_of]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


def program(pattern: str) -> str:
    """A program whose name contains its version."""
    found = sorted(Path("/usr/sbin").glob(pattern)) or sorted(Path("/usr/lib").glob(pattern))
    if not found:
        raise FileNotFoundError(pattern)
    return str(found[-1])


def _workers(run: Running) -> None:
    """Masters that are root, with workers that are www-data."""
    _place("index.php", configs.PHP)
    _place("htdocs/index.html", "hello\n")
    _place("app.py", configs.GUNICORN)
    run.start(program("php-fpm8*"), "-F", "-y", _config("php-fpm.conf", configs.PHP_FPM))
    run.start("nginx", "-c", _config("nginx.conf", configs.NGINX))
    run.start("apache2", "-f", _config("apache2.conf", configs.APACHE), "-D", "FOREGROUND")
    run.start("gunicorn", "--workers", "4", "--user", "www-data", "--group", "www-data",
              "--bind", "127.0.0.1:8082", "--chdir", str(PLACE), "app:app")  # fmt: skip
    wait_port(9000)
    _request((8080,), 480, 12)
    _request((8081,), 200, 8)
    _request((8082,), 80, 8)


def as_user(user: str, *command: str) -> tuple[str, ...]:
    """The command, to run as a user."""
    return ("setpriv", "--reuid", user, "--regid", user, "--clear-groups", *command)


def start_postgresql(run: Running) -> Path:
    """Starts PostgreSQL with a new database, which has its socket in `PLACE / "postgresql"`. Returns the folder
    of its programs."""
    data = PLACE / "postgresql"
    tools = Path(program("postgresql/*/bin/postgres")).parent
    subprocess.run(("install", "-d", "-o", "postgres", data), check=True)
    initialise = as_user("postgres", str(tools / "initdb"), "-D", str(data))
    subprocess.run(initialise, check=True, stdout=subprocess.DEVNULL)
    run.start(*as_user("postgres", str(tools / "postgres"), "-D", str(data), "-k", str(data)))
    wait_port(5432)
    return tools


def _postgresql(run: Running) -> None:
    tools = start_postgresql(run)
    psql = as_user("postgres", str(tools / "psql"), "-q", "-h", str(PLACE / "postgresql"))
    for _ in range(20):
        client = run.start(*psql, stdin=subprocess.PIPE)
        assert client.stdin
        client.stdin.write(configs.SQL)
        client.stdin.flush()


def _node(run: Running) -> None:
    ports = range(8200, 8206)
    for port in ports:
        run.start("node", "-e", configs.NODE, str(port))
    _request(ports, 40, 4)


def _jvm(run: Running) -> None:
    ports = range(8300, 8304)
    for port in ports:
        run.start("java", "-Xms96m", "-Xmx96m", "-XX:+UseSerialGC", "-XX:+AlwaysPreTouch",
                  "-m", "jdk.httpserver", "-b", "127.0.0.1", "-p", str(port),
                  "-d", "/usr/share/doc")  # fmt: skip
    _request(ports, 20, 2)


def _redis(run: Running) -> None:
    """One that is written to, and two replicas of it."""
    first, *replicas = ports = range(8400, 8403)
    for port in ports:
        of = () if port == first else ("--replicaof", f"127.0.0.1 {first}")
        # A replica keeps what it is sent in a file, until it has all of it.
        data = PLACE / f"redis{port}"
        data.mkdir()
        shutil.chown(data, "redis", "redis")
        run.start(*as_user("redis", "redis-server", "--port", str(port), "--dir", str(data),
                       "--save", "", *of))  # fmt: skip
        wait_port(port)
    keys = 20_000
    ask_redis(first, "".join(configs.REDIS.format(number=number) for number in range(keys)), keys)
    _wait(lambda: all(ask_redis(port, "DBSIZE\r\n", 1) == [f":{keys}"] for port in replicas),
          "replicas of Redis")  # fmt: skip


def ask_redis(port: int, commands: str, count: int) -> list[str]:
    """The answers to commands, each of which is answered by one line."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as connection:
        sender = threading.Thread(target=connection.sendall, args=(commands.encode(),))
        sender.start()
        answers = connection.makefile(encoding="ascii", newline="\r\n")
        found = [answers.readline().strip() for _ in range(count)]
        sender.join()
    if errors := [one for one in found if one.startswith("-")]:
        raise OSError(f"Redis: {errors[0]}")
    return found


def _vms(run: Running) -> None:
    """Virtual machines of one user, which boot a kernel and write some memory."""
    disk = _initramfs()
    consoles = [PLACE / f"vm{number}" for number in range(4)]
    for console in consoles:
        console.touch()
        shutil.chown(console, "nobody", "nogroup")
        run.start("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups",
                  "qemu-system-x86_64", "-accel", "tcg,tb-size=32", "-m", "128", "-nographic",
                  "-nodefaults", "-no-user-config", "-serial", f"file:{console}",
                  "-kernel", "vmlinuz", "-initrd", str(disk),
                  "-append", "console=ttyS0 quiet")  # fmt: skip
    _wait(lambda: all("ready" in console.read_text() for console in consoles), "the VMs' kernels")


def _initramfs() -> Path:
    """The first file system of a virtual machine: busybox and a script."""
    root = PLACE / "vm-root"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin")
    (root / "init").write_text(configs.VM_INIT)
    (root / "init").chmod(0o755)
    names = "init\nbin\nbin/busybox\n".encode()
    command = ("busybox", "cpio", "-o", "-H", "newc")
    packed = subprocess.run(command, cwd=root, input=names, check=True, stdout=subprocess.PIPE)
    disk = PLACE / "vm.cpio"
    disk.write_bytes(packed.stdout)
    return disk


def _wait(is_done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_done():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(1)


WORKLOADS = (
    Workload("workers", "12 of php-fpm, 8 of Apache (prefork), 4 of gunicorn, masters as root",
             _workers),
    Workload("postgresql", "PostgreSQL, 20 clients", _postgresql),
    Workload("node", "6 Node.js", _node),
    Workload("redis", "Redis with 20,000 keys, and 2 replicas", _redis),
    Workload("vms", "4 virtual machines of QEMU with 128 MiB, just booted", _vms),
    Workload("jvm", "4 JVMs with a heap of 96 MiB, touched at start", _jvm),
)  # fmt: skip


def prepare_guest() -> None:
    """Brings up the network and the tree of cgroups, and loads the module."""
    subprocess.run(("ip", "link", "set", "lo", "up"), check=True)
    if not (CGROUPS / "cgroup.controllers").exists():
        subprocess.run(("mount", "-t", "cgroup2", "none", CGROUPS), check=True)
    subprocess.run(("insmod", "ksm_v.ko"), check=True)


def begin(start: Callable[[Running], None], cgroup: Path, opts_in: bool) -> Running:
    """Starts servers by this function, in a cgroup that is made for them."""
    cgroup.mkdir(exist_ok=True)
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(mode=0o755)
    os.environ["HOME"] = str(PLACE)
    running = Running(cgroup, opts_in)
    start(running)
    return running
