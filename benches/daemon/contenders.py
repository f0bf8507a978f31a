"""The target and the programs that check it. Each gets the same monitors and a folder of its own."""

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import accounting

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1
STOP_LIMIT_S = 40


def free_port(address="127.0.0.1"):
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


def _die_with_us():
    # Whatever ends this tool, also kill -9, ends what it started.
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def spawn(command, log):
    """In a session of its own, so that the signals of a terminal reach only this tool, which stops things in order."""
    # The tool's own temporary folder is all that a kill -9 of it leaves behind.
    with open(log, "ab") as out:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=_die_with_us,
        )


def stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            pass
    try:
        # The session's stragglers, if any; they cannot be anybody else's.
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def version(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except FileNotFoundError:
        return "not installed"
    # All of them name their version first.
    found = re.search(r"\d+(\.\d+)+[^\s,)]*", done.stdout + done.stderr)
    return found[0] if found else "unknown"


def certify(folder, addresses):
    """A root, and a chain through an intermediate for the addresses: what a public site presents."""

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    names = ",".join(f"IP:{address}" for address in addresses)
    extensions = {
        "root": "basicConstraints=critical,CA:TRUE",
        "middle": "basicConstraints=critical,CA:TRUE",
        "leaf": f"subjectAltName={names}",
    }
    for name, issuer in (("root", None), ("middle", "root"), ("leaf", "middle")):
        with open(os.path.join(folder, f"{name}.ext"), "w", encoding="ascii") as file:
            file.write(extensions[name] + "\n")
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")
        openssl("req", "-new", "-key", f"{name}.key", "-subj", f"/CN=punctual {name}", "-out", f"{name}.csr")
        signer = ["-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key", "-CAcreateserial"] if issuer else []
        signer = signer or ["-signkey", "root.key"]
        openssl("x509", "-req", "-in", f"{name}.csr", "-days", "30", "-extfile", f"{name}.ext", "-out", f"{name}.pem", *signer)
    with open(os.path.join(folder, "chain.pem"), "w", encoding="ascii") as chain:
        for name in ("leaf", "middle"):
            with open(os.path.join(folder, f"{name}.pem"), encoding="ascii") as file:
                chain.write(file.read())


class Target:
    """nginx on many loopback addresses, one small answer, and an access log that is the truth.

    Many addresses, because a fresh connection a check to one address and port would use up its 28,000 local ports: at
    500 checks a second they would all be in TIME_WAIT within a minute."""

    def __init__(self, folder, addresses, secure):
        self.folder, self.addresses = folder, [f"127.0.0.{1 + index}" for index in range(addresses)]
        self.port, self.scheme = free_port(), "https" if secure else "http"
        self.log = os.path.join(folder, "access.log")
        self.roots = None
        ssl = tls = ""
        if secure:
            certify(folder, self.addresses)
            self.roots = os.path.join(folder, "root.pem")
            # Every check is a new visitor: no session may be resumed.
            ssl = " ssl"
            tls = (
                f"ssl_certificate {folder}/chain.pem; ssl_certificate_key {folder}/leaf.key;"
                " ssl_session_tickets off; ssl_session_cache off;"
            )
        listen = "\n".join(f"      listen {address}:{self.port}{ssl} backlog=4096;" for address in self.addresses)
        parts = " ".join(
            f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = f"""
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx-error.log;
worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{
    {parts}
    log_format punctual '$msec $request_uri $status';
    access_log {self.log} punctual buffer=64k flush=1s;
    {tls}
    server {{
{listen}
      location / {{ default_type text/plain; return 200 "ok\\n"; }}
    }}
}}
"""
        self._processes = []
        self._config = os.path.join(folder, "nginx.conf")
        with open(self._config, "w", encoding="ascii") as file:
            file.write(config)

    def start(self):
        command = ["/usr/sbin/nginx", "-p", self.folder, "-c", self._config, "-e", f"{self.folder}/nginx-error.log"]
        process = spawn(command, f"{self.folder}/nginx.out")
        self._processes.append(process)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((self.addresses[-1], self.port), 1).close()
                return
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"nginx did not start: see {self.folder}/nginx-error.log") from None
                time.sleep(0.05)

    def stop(self):
        for process in self._processes:
            stop(process)

    def place(self, monitor):
        return self.addresses[monitor % len(self.addresses)], self.port, f"/m/{monitor}"

    def url(self, monitor):
        address, port, path = self.place(monitor)
        return f"{self.scheme}://{address}:{port}{path}"


class Listener:
    """A listener for every monitor, whose accept log is the truth: a bare connection has no path to tell one by.

    They share the addresses of `Target`, and ports below the range that clients are given."""

    FIRST_PORT = 20000

    def __init__(self, folder, addresses, monitors):
        self.folder, self.addresses = folder, [f"127.0.0.{1 + index}" for index in range(addresses)]
        self.log, self.roots = os.path.join(folder, "access.log"), None
        self._monitors, self._processes = monitors, []

    def place(self, monitor):
        return self.addresses[monitor % len(self.addresses)], self.FIRST_PORT + monitor // len(self.addresses)

    def start(self):
        own = os.path.join(os.path.dirname(os.path.abspath(__file__)), "accepting.py")
        command = [sys.executable, own, self.log, str(self._monitors), *self.addresses, str(self.FIRST_PORT)]
        process = spawn(command, f"{self.folder}/accepting.out")
        self._processes.append(process)
        deadline = time.monotonic() + 20
        while not os.path.exists(f"{self.log}.ready"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the listeners did not start: see {self.folder}/accepting.out")
            time.sleep(0.05)

    def stop(self):
        for process in self._processes:
            stop(process)

    def url(self, monitor):
        address, port = self.place(monitor)
        return f"tcp://{address}:{port}"


class Lamplighter:
    name = "Lamplighter"
    stores = "every result in its embedded Postgres"

    def __init__(self, folder, state, program):
        self.folder, self.program, self._state = folder, program, os.path.join(state, "lamplighter")
        self.config = os.path.join(folder, "lamplighter.toml")
        self._processes = []

    def start(self, target, monitors, interval):
        with open(self.config, "w", encoding="ascii") as file:
            file.write(f'[daemon]\nstate_directory = "{self._state}"\n')
            file.write(f'[server]\nlisten = "127.0.0.1:{free_port()}"\n')
            if target.roots:
                file.write(f'[probe]\nca_files = ["{target.roots}"]\n')
            file.write(f'[defaults]\ninterval = "{interval}s"\ntimeout = "10s"\n')
            for monitor in range(monitors):
                file.write(f'[[monitor]]\nid = "m{monitor}"\nurl = "{target.url(monitor)}"\n')
        self._processes = [spawn([self.program, "run", "--config", self.config], f"{self.folder}/lamplighter.log")]

    def groups(self):
        pid = self._processes[0].pid
        postgres = lambda: [
            found for child in accounting.children(pid) if accounting.name_of(child) == "postgres"
            for found in accounting.family(child)
        ]
        return {"lamplighter": lambda: [pid], "postgres": postgres}

    def rows(self, begin, end):
        """Times of the stored checks of these seconds, of every monitor in order."""
        environment = {**os.environ, "LAMPLIGHTER_CONFIG": self.config}
        url = subprocess.run(
            [self.program, "db", "url"], env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()
        query = (
            "COPY (SELECT m.key, extract(epoch FROM c.checked_at) FROM monitor_checks c "
            "JOIN monitors m ON m.id = c.monitor_id "
            f"WHERE c.checked_at >= to_timestamp({begin}) AND c.checked_at < to_timestamp({end}) "
            "ORDER BY m.key, c.checked_at) TO STDOUT"
        )
        out = subprocess.run(["psql", "-X", "-q", url, "-c", query], capture_output=True, text=True, check=True).stdout
        rows = {}
        for line in out.splitlines():
            key, at = line.split("\t")
            rows.setdefault(int(key[1:]), []).append(float(at))
        return rows

    def stop(self):
        for process in self._processes:
            stop(process)
        shutil.rmtree(self._state, ignore_errors=True)

    def versions(self):
        return {"lamplighter": version(self.program, "--version"), "postgres": version("psql", "--version")}


class Prometheus:
    name = "Prometheus + blackbox_exporter"
    stores = "all series of every probe in Prometheus"

    def __init__(self, folder, state, _program):
        self.folder, self._state = folder, os.path.join(state, "prometheus")
        self._processes = []

    def start(self, target, monitors, interval):
        blackbox, own = free_port(), free_port()
        with open(f"{self.folder}/blackbox.yml", "w", encoding="ascii") as file:
            # It opens a connection a probe and has no setting to keep one.
            file.write("modules:\n  http_2xx:\n    prober: http\n    timeout: 10s\n")
            file.write("    http: {preferred_ip_protocol: ip4, ip_protocol_fallback: false}\n")
        targets = ", ".join(f'"{target.url(monitor)}"' for monitor in range(monitors))
        with open(f"{self.folder}/prometheus.yml", "w", encoding="ascii") as file:
            file.write(
                f"""global: {{scrape_interval: {interval}s, scrape_timeout: {min(interval, 10)}s}}
scrape_configs:
  - job_name: punctual
    metrics_path: /probe
    params: {{module: [http_2xx]}}
    static_configs: [{{targets: [{targets}]}}]
    relabel_configs:
      - {{source_labels: [__address__], target_label: __param_target}}
      - {{source_labels: [__param_target], target_label: instance}}
      - {{target_label: __address__, replacement: "127.0.0.1:{blackbox}"}}
"""
            )
        self._processes = [
            spawn(
                [
                    "prometheus-blackbox-exporter",
                    f"--config.file={self.folder}/blackbox.yml",
                    f"--web.listen-address=127.0.0.1:{blackbox}",
                ],
                f"{self.folder}/blackbox.log",
            ),
            spawn(
                [
                    "prometheus",
                    f"--config.file={self.folder}/prometheus.yml",
                    f"--storage.tsdb.path={self._state}",
                    "--storage.tsdb.retention.time=1d",
                    f"--web.listen-address=127.0.0.1:{own}",
                ],
                f"{self.folder}/prometheus.log",
            ),
        ]

    def groups(self):
        blackbox, own = (process.pid for process in self._processes)
        return {"blackbox_exporter": lambda: [blackbox], "prometheus": lambda: [own]}

    def stop(self):
        for process in reversed(self._processes):
            stop(process)
        shutil.rmtree(self._state, ignore_errors=True)

    def versions(self):
        return {
            "prometheus": version("prometheus", "--version"),
            "blackbox_exporter": version("prometheus-blackbox-exporter", "--version"),
        }


class Monit:
    name = "monit"
    stores = "nothing but the present state"

    def __init__(self, folder, _state, _program):
        self.folder = folder
        self._processes = []

    def start(self, target, monitors, interval):
        config = f"{self.folder}/monitrc"
        with open(config, "w", encoding="ascii") as file:
            file.write(f"set daemon {interval}\nset log {self.folder}/monit-own.log\n")
            for what in ("pid", "id", "state"):
                file.write(f"set {what}file {self.folder}/monit.{what}\n")
            for monitor in range(monitors):
                address, port, path = target.place(monitor)
                file.write(
                    f"check host m{monitor} with address {address}\n"
                    f'  if failed port {port} protocol http request "{path}" with timeout 10 seconds then alert\n'
                )
        # It refuses a file that others may read.
        os.chmod(config, 0o700)
        self._processes = [spawn(["monit", "-I", "-c", config], f"{self.folder}/monit.log")]

    def groups(self):
        pid = self._processes[0].pid
        return {"monit": lambda: [pid]}

    def stop(self):
        for process in self._processes:
            stop(process)

    def versions(self):
        return {"monit": version("monit", "--version")}
