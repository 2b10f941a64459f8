"""What a manifest says is what a container gets: every attribute seen from inside, or from the host where it acts."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.cgroup import detect
from tests.support.holdfast import Holdfast, free_port, holdfast_root
from tests.support.images import BUSYBOX, layer_tar, write_oci_tar

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


@pytest.fixture
def holdfast(tmp_path: Path) -> Iterator[Holdfast]:
    with holdfast_root(tmp_path) as holdfast:
        yield holdfast


def shell(holdfast: Holdfast, service: str, script: str, stack: str = "attr") -> str:
    return holdfast.run("exec", "-T", f"{stack}/{service}", "--", "/bin/sh", "-c", script).stdout


def facts(holdfast: Holdfast, service: str, **scripts: str) -> dict[str, str]:
    """What each script prints inside the container, all in one exec."""
    text = "\n".join(f"echo '@@{name}'; ({script}) 2>&1" for name, script in scripts.items())
    parts = shell(holdfast, service, text).split("@@")[1:]
    return {name: value.rstrip("\n") for name, _, value in (part.partition("\n") for part in parts)}


def status_line(pid: int, field: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{field}:"))


def container(holdfast: Holdfast, service: str, stack: str = "attr") -> dict[str, Any]:
    (found,) = holdfast.containers(all=True, stack=stack, resource=service)
    return found


def plan_is_empty(holdfast: Holdfast, *words: str) -> bool:
    return "nothing to change" in holdfast.run("plan", *words).stdout


PROCESS = """
name: attr
services:
  program:
    image: busybox
    entrypoint: [/bin/sh, -c]
    command: ["echo to-the-log; exec sleep 1000"]
    environment: {PLAIN: value, NUMBER: 5, TRUTH: true, EMPTY: "", FROM_CALLER: , ABSENT: , BOTH: environment}
    env_file:
      - one.env
      - {path: two.env, format: raw}
      - {path: missing.env, required: false}
    working_dir: /var
    user: "1000:2000"
    group_add: [3000, nogroup]
    labels: [tier=front, "bare"]
    hostname: front.house
    domainname: example.org
    container_name: the-program
    cap_add: [NET_ADMIN]
    cap_drop: [CHOWN, CAP_MKNOD]
    security_opt: ["no-new-privileges:false", apparmor=unconfined]
    read_only: true
    init: true
    stop_signal: USR1
    stop_grace_period: 1s
    ulimits: {nofile: 512, nproc: {soft: 100, hard: 200}, core: -1}
    sysctls: {net.ipv4.ip_unprivileged_port_start: 81, kernel.msgmax: "9000"}
    shm_size: 8m
    pids_limit: 77
    mem_limit: 96m
    mem_reservation: 48m
    cpus: 0.5
    extra_hosts: ["db.house=10.9.8.7", "me=host-gateway"]
    dns: 10.1.2.3
    logging: {driver: json-file, options: {max-size: 8k, max-file: "2"}}
    tmpfs: ["/scratch:size=1m,mode=0700,uid=1000,noexec"]
    expose: [80, "53/udp"]
    pull_policy: never
  deployed:
    image: busybox
    command: "sh -c 'while true; do echo 0123456789012345678901234567890123456789012345678901234567890123; done'"
    privileged: true
    tty: true
    stdin_open: true
    logging: {options: {max-size: 8k, max-file: 2}}
    deploy:
      resources:
        limits: {cpus: "0.25", memory: 80m, pids: 66}
        reservations: {memory: 40m}
  confined:
    image: busybox
    command: [sleep, "1000"]
    entrypoint: []
    cap_drop: [ALL]
    security_opt: [no-new-privileges, "seccomp=unconfined"]
    init: false
  filtered:
    image: busybox
    command: sleep 1000
    stop_grace_period: 0s
    security_opt: ["seccomp=profile.json"]
    network_mode: none
  onhost: {image: busybox, command: sleep 1000, stop_grace_period: 0s, network_mode: host, cap_add: [ALL]}
"""
PROFILE = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
}


def test_a_process_gets_what_its_service_says(holdfast: Holdfast) -> None:
    holdfast.environment["FROM_CALLER"] = "called"
    holdfast.environment.pop("ABSENT", None)
    holdfast.write(PROCESS)
    holdfast.write("ONE=1\nBOTH=file\nQUOTED='a b'\n", "one.env")
    holdfast.write("ONE=2\nRAW='a b'\n", "two.env")
    holdfast.write(json.dumps(PROFILE), "profile.json")
    holdfast.apply()
    assert plan_is_empty(holdfast)

    program = container(holdfast, "program")
    main = int(Path(f"/proc/{program['pid']}/task/{program['pid']}/children").read_text().split()[0])
    environment = dict(
        item.partition("=")[::2] for item in Path(f"/proc/{main}/environ").read_text().rstrip("\0").split("\0")
    )
    wanted = {
        "PLAIN": "value", "NUMBER": "5", "TRUTH": "true", "EMPTY": "", "FROM_CALLER": "called", "BOTH": "environment",
        "ONE": "2", "QUOTED": "a b", "RAW": "'a b'", "HOSTNAME": "front.house", "HOME": "/home/app",
    }  # fmt: skip
    assert wanted.items() <= environment.items() and "ABSENT" not in environment
    inside = facts(
        holdfast, "program",
        cwd="pwd", id="id -u; id -g", groups="id -G",
        host="hostname; cat /etc/hostname; cat /proc/sys/kernel/domainname",
        root="touch /file", scratch="stat -c '%a %u' /scratch; mount | grep ' /scratch '; df -k /scratch | tail -1",
        shm="df -k /dev/shm | tail -1", port="cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
        msg="cat /proc/sys/kernel/msgmax", nofile="ulimit -n; ulimit -Hn", core="ulimit -c", hosts="cat /etc/hosts",
        first="cat /proc/1/comm; cat /proc/1/cmdline | tr '\\0' ' '",
    )  # fmt: skip
    assert inside["cwd"] == "/var"
    assert inside["id"].split() == ["1000", "2000"]
    assert {"2000", "3000", "65534"} <= set(inside["groups"].split())
    assert inside["host"].split() == ["front.house", "front.house", "example.org"]
    assert "Read-only" in inside["root"]
    assert (
        inside["scratch"].startswith("700 1000\n") and "noexec" in inside["scratch"] and " 1024 " in inside["scratch"]
    )
    assert " 8192 " in inside["shm"]
    assert inside["port"] == "81" and inside["msg"] == "9000"
    assert inside["nofile"].split() == ["512", "512"] and inside["core"] == "unlimited"
    limits = Path(f"/proc/{main}/limits").read_text()
    assert ["100", "200"] in [line.split()[-3:-1] for line in limits.splitlines() if line.startswith("Max processes")]
    assert "10.9.8.7" in inside["hosts"] and "db.house" in inside["hosts"]
    assert any(
        line.split()[1:] == ["me"] and line[0].isdigit() for line in inside["hosts"].splitlines() if "me" in line
    )
    assert "sleep" not in inside["first"]  # the init is first, the program its child
    assert os.path.basename(os.readlink(f"/proc/{main}/exe")) == "busybox"

    bounding = int(status_line(main, "CapBnd"), 16)
    assert bounding >> 12 & 1 and not bounding & 1 and not bounding >> 27 & 1  # NET_ADMIN; CHOWN, MKNOD
    assert status_line(main, "NoNewPrivs") == "0" and status_line(main, "Seccomp") == "2"
    assert program["name"] == "the-program"
    assert program["labels"]["tier"] == "front" and program["labels"]["bare"] == ""
    cgroup = f"{holdfast.layout.cgroup}/{program['id']}"
    found = detect().read_limits(cgroup)
    assert (found["cpus"], found["memory"], found["pids"]) == (0.5, 96 << 20, 77)
    assert memory_reservation(cgroup) == 48 << 20
    (spec,) = holdfast.json("container", "inspect", program["id"])
    assert spec["spec"]["spec"]["expose"] == ["53/udp", "80/tcp"]
    assert holdfast.run("logs", "attr/program").stdout.rstrip().endswith("to-the-log")

    deployed = container(holdfast, "deployed")
    cgroup = f"{holdfast.layout.cgroup}/{deployed['id']}"
    found = detect().read_limits(cgroup)
    assert (found["cpus"], found["memory"], found["pids"]) == (0.25, 80 << 20, 66)
    assert memory_reservation(cgroup) == 40 << 20
    assert status_line(deployed["pid"], "CapEff") == status_line(os.getpid(), "CapBnd")
    assert status_line(deployed["pid"], "Seccomp") == "0" and status_line(deployed["pid"], "NoNewPrivs") == "0"
    assert os.readlink(f"/proc/{deployed['pid']}/fd/0").startswith("/dev/pts/")
    logs = Path(holdfast.layout.container(deployed["id"]), "log")
    sizes = []
    for file in logs.iterdir():
        with contextlib.suppress(FileNotFoundError):  # rotated away between the listing and the look
            sizes.append(file.stat().st_size)
    assert 0 < sum(sizes) < 64 << 10, sizes

    confined = container(holdfast, "confined")
    assert int(status_line(confined["pid"], "CapBnd"), 16) == 0
    assert status_line(confined["pid"], "NoNewPrivs") == "1" and status_line(confined["pid"], "Seccomp") == "0"
    assert "sleep" in Path(f"/proc/{confined['pid']}/comm").read_text()  # without init the program itself is first

    inside = facts(holdfast, "filtered", mkdir="mkdir /d", links="ls /sys/class/net", pid1="cat /proc/1/cmdline")
    assert "not permitted" in inside["mkdir"]
    assert inside["links"].split() == ["lo"]
    assert os.readlink(f"/proc/{container(holdfast, 'onhost')['pid']}/ns/net") == os.readlink("/proc/self/ns/net")

    # the program dies of USR1 within its grace: the init passes it on
    began = time.monotonic()
    holdfast.run("container", "stop", "the-program")
    assert time.monotonic() - began < 5
    (spec,) = holdfast.json("container", "inspect", program["id"])
    assert spec["exit_code"] == 128 + 10, spec["runs"]


def memory_reservation(cgroup: str) -> int:
    controllers = getattr(detect(), "controllers", None)
    place = f"{controllers['memory']}/{cgroup}/memory.soft_limit_in_bytes" if controllers else ""
    return int(Path(place or f"/sys/fs/cgroup/{cgroup}/memory.low").read_text())


DATA = """
name: attr
services:
  data:
    image: busybox
    command: sleep 1000
    stop_grace_period: 0s
    volumes:
      - named:/named
      - named:/sealed:ro
      - named:/etc
      - empty:/usr:nocopy
      - ./files:/files:ro
      - ./files/one:/one
      - /anonymous
      - {type: volume, source: named, target: /part, volume: {subpath: folder}}
      - {type: volume, target: /unnamed}
      - {type: bind, source: ./files, target: /shared, bind: {propagation: rshared}, read_only: true}
      - {type: tmpfs, target: /memory, tmpfs: {size: 2m, mode: 0750}}
      - {type: volume, source: limited, target: /limited}
      - {type: volume, source: elsewhere, target: /elsewhere}
      - {type: volume, source: outside, target: /outside}
    configs:
      - plain
      - {source: written, target: /opt/conf/written.conf, uid: 1000, gid: "2000", mode: 0440}
      - {source: called}
    secrets:
      - key
      - {source: token, target: deep/token, mode: "0400", uid: "1000"}
volumes:
  named: {labels: {keep: "yes"}, x-holdfast: {retain: true}}
  empty: {name: of-another-name}
  limited: {driver_opts: {type: tmpfs, o: "size=1m,mode=0711"}}
  elsewhere: {driver: local, driver_opts: {type: none, o: bind, device: "${HERE}/files"}}
  outside: {external: true, name: made-before}
configs:
  plain: {file: ./files/one}
  written: {content: "written ${WHAT}"}
  called: {environment: CALLED}
secrets:
  key: {environment: CALLED}
  token: {file: ./files/one}
"""


def test_a_container_finds_its_data_where_its_service_says(holdfast: Holdfast) -> None:
    files = holdfast.directory / "files"
    files.mkdir()
    (files / "one").write_text("first")
    holdfast.write("WHAT=down\n", ".env")
    holdfast.write(DATA)
    holdfast.environment |= {"HERE": str(holdfast.directory), "CALLED": "from the caller"}
    problem = holdfast.run("apply", "--yes", code=2).stderr
    assert 'external volume "made-before" does not exist' in problem
    holdfast.run("volume", "create", "made-before")
    refused = holdfast.apply(code=1).stderr
    assert 'subpath "folder" does not exist' in refused
    (named,) = [one for one in holdfast.json("volume", "ls") if one["name"] == "attr_named"]
    os.makedirs(f"{named['path']}/folder")
    holdfast.apply()
    assert plan_is_empty(holdfast)
    assert named["labels"]["keep"] == "yes"

    inside = facts(
        holdfast, "data",
        named="echo x > /named/x; cat /sealed/x; echo y > /sealed/y; ls /part; echo z > /part/z; cat /named/folder/z",
        etc="ls /etc/passwd", usr="ls /usr", files="cat /files/one; echo no > /files/one", one="echo second >> /one",
        anonymous="echo a > /anonymous/a && echo b > /unnamed/b && echo done",
        memory="stat -c %a /memory; df -k /memory | tail -1", limited="stat -c %a /limited; df -k /limited | tail -1",
        elsewhere="cat /elsewhere/one", shared="cat /proc/self/mountinfo | grep ' /shared '; touch /shared/t",
        outside="touch /outside/o", plain="stat -c '%a %u %g' /plain; cat /plain; echo no > /plain",
        written="stat -c '%a %u %g' /opt/conf/written.conf; cat /opt/conf/written.conf", called="cat /called",
        key="stat -c '%a %u %g' /run/secrets/key; cat /run/secrets/key",
        token="stat -c '%a %u %g' /run/secrets/deep/token; cat /run/secrets/deep/token",
    )  # fmt: skip
    assert inside["named"].splitlines()[0] == "x" and "Read-only" in inside["named"]
    assert inside["named"].splitlines()[-1] == "z" and (Path(named["path"]) / "folder/z").exists()
    assert inside["etc"] == "/etc/passwd" and (Path(named["path"]) / "passwd").exists()  # copied from the image
    assert inside["usr"] == ""
    assert inside["files"].startswith("first") and "Read-only" in inside["files"]
    assert (files / "one").read_text() == "firstsecond\n"
    assert inside["anonymous"] == "done"
    assert inside["memory"].startswith("750\n") and " 2048 " in inside["memory"]
    assert inside["limited"].startswith("711\n") and " 1024 " in inside["limited"]
    assert inside["elsewhere"].startswith("first")
    assert "shared:" in inside["shared"] and "Read-only" in inside["shared"]
    assert inside["plain"].startswith("444 0 0\nfirst") and "Read-only" in inside["plain"]
    assert inside["written"] == "440 1000 2000\nwritten down"
    assert inside["called"] == "from the caller"
    assert inside["key"] == "444 0 0\nfrom the caller"
    assert inside["token"] == "400 1000 0\nfirst"

    # a read-write bind has changed what a config and a secret are made of: the next plan says so
    assert "replace" in holdfast.run("plan", code=3).stdout
    holdfast.run("destroy", "attr", "--yes")
    left = {one["name"] for one in holdfast.json("volume", "ls")}
    assert left == {"attr_named", "of-another-name", "attr_limited", "attr_elsewhere", "made-before"}


NETWORKS = """
name: attr
services:
  web:
    image: busybox
    command:
      - sh
      - -c
      - |
        mkdir /www; hostname > /www/index.html; for p in 81 8080; do httpd -p $$p -h /www; done
        exec httpd -f -p 80 -h /www
    stop_grace_period: 0s
    networks:
      front: {aliases: [www, shop.example], ipv4_address: 10.211.7.9, priority: 10}
      back: {ipv6_address: "fd00:211:8::9", mac_address: "02:42:0a:d3:08:09"}
    ports:
      - "127.0.0.1:${FIRST}:80"
      - "${SECOND}-${THIRD}:80-81"
      - {target: 53, published: "${FIRST}", protocol: udp, host_ip: 127.0.0.1, mode: host, name: dns, app_protocol: dns}
      - "[::]:${FOURTH}:80"
      - 8080
  udp:
    image: busybox
    command: sleep 1000
    stop_grace_period: 0s
    stdin_open: true
    networks: [front]
  alone: {image: busybox, command: sleep 1000, stop_grace_period: 0s, networks: {inside: {}}}
  plain: {image: busybox, command: sleep 1000, stop_grace_period: 0s, networks: [default, outside]}
  bridged: {image: busybox, command: sleep 1000, stop_grace_period: 0s, network_mode: bridge}
networks:
  front:
    name: front-of-house
    labels: {a: b}
    attachable: true
    ipam: {driver: default, config: [{subnet: 10.211.7.0/24, gateway: 10.211.7.2, ip_range: 10.211.7.128/25}]}
    driver_opts:
      com.docker.network.driver.mtu: 1400
      com.docker.network.bridge.name: "${BRIDGE}"
      com.docker.network.bridge.enable_ip_masquerade: "false"
  back: {enable_ipv6: true, ipam: {config: [{subnet: 10.211.8.0/24}, {subnet: "fd00:211:8::/64"}]}}
  inside: {internal: true}
  outside: {external: true, name: made-before}
"""


def test_a_service_is_reached_where_its_manifest_says(holdfast: Holdfast) -> None:
    first, fourth, second = free_port(), free_port(), free_pair()
    bridge = f"hfattr{os.getpid() % 100000}"
    holdfast.environment |= {
        "FIRST": str(first), "SECOND": str(second), "THIRD": str(second + 1), "FOURTH": str(fourth), "BRIDGE": bridge,
    }  # fmt: skip
    holdfast.write(NETWORKS)
    assert 'external network "made-before" does not exist' in holdfast.run("plan", code=2).stderr
    holdfast.run("network", "create", "made-before")
    holdfast.apply()
    assert plan_is_empty(holdfast)

    web = container(holdfast, "web")
    chosen = next(port["host_port"] for port in web["ports"] if port["container_port"] == 8080)
    assert chosen > 1024
    fields = ("host_ip", "host_port", "container_port", "protocol")
    assert {tuple(port[field] for field in fields) for port in web["ports"]} == {
        ("127.0.0.1", first, 80, "tcp"), ("127.0.0.1", first, 53, "udp"), ("", second, 80, "tcp"),
        ("", second + 1, 81, "tcp"), ("::", fourth, 80, "tcp"), ("", chosen, 8080, "tcp"),
    }  # fmt: skip
    for port in (first, second):
        assert http(socket.AF_INET, ("127.0.0.1", port)).endswith("web-1\n")
    inside = facts(
        holdfast, "web", addresses="ip -o addr", route="ip route; ip -6 route", mac="cat /sys/class/net/*/address",
        mtu="cat /sys/class/net/eth0/mtu",
    )  # fmt: skip
    assert "eth0    inet 10.211.7.9/24" in inside["addresses"] and "eth1    inet 10.211.8." in inside["addresses"]
    assert "fd00:211:8::9/64" in inside["addresses"]
    assert "default via 10.211.7.2 dev eth0" in inside["route"]
    assert "02:42:0a:d3:08:09" in inside["mac"] and inside["mtu"] == "1400"
    assert os.path.isdir(f"/sys/class/net/{bridge}/bridge")
    names = ("web", "web-1", "www", "shop.example", "udp")
    found = facts(
        holdfast, "udp",
        **{f"n{index}": f"ping -c1 -W2 {name} | head -1" for index, name in enumerate(names)},
        address="ip -o -4 addr show eth0",
    )  # fmt: skip
    assert all("(10.211.7.9)" in found[f"n{index}"] for index in range(4)), found
    assert 128 <= int(found["address"].split("10.211.7.")[1].split("/")[0]) < 255
    inside = facts(holdfast, "alone", route="ip route", web="ping -c1 -W1 web", self="ping -c1 alone | head -1")
    assert "default" not in inside["route"] and "bad address" in inside["web"] and "(1" in inside["self"]
    assert "bridged" in shell(holdfast, "plain", "ping -c1 -W2 bridged | head -1")
    assert shell(holdfast, "plain", "ls /sys/class/net").split() == ["eth0", "eth1", "lo"]
    listed = {one["name"]: one for one in holdfast.json("network", "ls")}
    assert listed["front-of-house"]["labels"]["a"] == "b" and listed["attr_inside"]["internal"]
    assert listed["front-of-house"]["bridge"] == bridge
    holdfast.run("destroy", "attr", "--yes")
    assert {one["name"] for one in holdfast.json("network", "ls")} == {"made-before"}


def free_pair() -> int:
    while True:
        port = free_port()
        with socket.socket() as next_one:
            try:
                next_one.bind(("0.0.0.0", port + 1))
            except OSError:
                continue
            return port


def http(family: socket.AddressFamily, address: tuple[str, int]) -> str:
    with socket.socket(family) as client:
        client.settimeout(5)
        client.connect(address)
        client.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
        text = b""
        while block := client.recv(4096):
            text += block
    return text.decode()


COURSE = """
name: attr
services:
  checked:
    image: busybox
    command: ["sh", "-c", "sleep 0.6; touch /ready; exec sleep 1000"]
    stop_grace_period: 0s
    healthcheck:
      {test: [CMD, test, -f, /ready], interval: 1m, timeout: 2s, retries: 2, start_period: 20s, start_interval: 200ms}
  unchecked:
    image: busybox
    command: sleep 1000
    stop_grace_period: 0s
    healthcheck: {disable: true}
  prepared: {image: busybox, command: ["sh", "-c", "echo ready > /shared/prepared"], volumes: [shared:/shared]}
  failing: {image: busybox, command: ["false"], restart: on-failure:1}
  user:
    image: busybox
    command: ["sh", "-c", "cat /shared/prepared && exec sleep 1000"]
    stop_grace_period: 0s
    volumes: [shared:/shared]
    depends_on:
      checked: {condition: service_healthy, restart: true}
      unchecked: {condition: service_started}
      prepared: {condition: service_completed_successfully}
      failing: {condition: service_completed_successfully, required: false}
      absent: {condition: service_healthy, required: false}
      extra: {condition: service_started, required: false}
  twice: {image: busybox, command: sleep 1000, stop_grace_period: 0s, deploy: {mode: replicated, replicas: 2}}
  thrice: {image: busybox, command: sleep 1000, stop_grace_period: 0s, scale: 3}
  none: {image: busybox, command: sleep 1000, stop_grace_period: 0s, scale: 0}
  extra: {image: busybox, command: sleep 1000, stop_grace_period: 0s, profiles: [debug, more]}
  stopper: {image: busybox, command: ["sh", "-c", "trap : TERM; while :; do sleep 0.1; done"], stop_grace_period: 300ms}
  waiter: {image: busybox, command: cat, stdin_open: true}
  reader: {image: busybox, command: ["sh", "-c", "cat; exec sleep 1000"]}
volumes: {shared: {}}
"""


def test_services_come_in_the_order_and_number_that_their_manifest_says(holdfast: Holdfast) -> None:
    manifest = holdfast.write(COURSE)
    done = holdfast.run("apply", "--yes", "--timeout", "20s", code=None)
    assert done.returncode == 1 and "failing" in done.stderr + done.stdout
    states = {one["name"]: one for one in holdfast.containers(all=True)}
    assert states["attr/checked-1"]["health"] == "healthy" and states["attr/unchecked-1"]["health"] == "none"
    assert states["attr/prepared-1"]["exit_code"] == 0
    assert states["attr/user-1"]["state"] == "running"
    assert states["attr/user-1"]["started"] >= states["attr/prepared-1"]["finished"]
    assert states["attr/failing-1"]["starts"] == 2
    assert sorted(name for name in states if "ice-" in name) == [f"attr/thrice-{n}" for n in (1, 2, 3)] + [
        f"attr/twice-{n}" for n in (1, 2)
    ]
    assert not [name for name in states if "none" in name or "extra" in name]
    assert states["attr/waiter-1"]["state"] == states["attr/reader-1"]["state"] == "running"

    text = COURSE.replace('failing: {image: busybox, command: ["false"]', 'failing: {image: busybox, command: ["true"]')
    manifest.write_text("# a remark\n" + text)
    holdfast.apply()
    assert plan_is_empty(holdfast)
    manifest.write_text(f"{text}\n# the remark has moved\n")
    assert plan_is_empty(holdfast)

    # profiles, from the option and from the environment
    assert "service/extra-1" in holdfast.run("plan", "--profile", "debug", code=3).stdout
    holdfast.environment["COMPOSE_PROFILES"] = "none,more"
    holdfast.apply()
    assert container(holdfast, "extra")["state"] == "running"
    holdfast.environment.pop("COMPOSE_PROFILES")
    assert "remove" in holdfast.run("plan", code=3).stdout
    holdfast.environment["COMPOSE_PROFILES"] = "more"

    # what lies outside of a container acts without a new one: grace, check, replicas, restart
    before = {one["name"]: one["id"] for one in holdfast.containers(all=True)}
    text = text.replace("stop_grace_period: 300ms", "stop_grace_period: 7s").replace("scale: 3", "scale: 1")
    text = text.replace(
        "healthcheck: {disable: true}", "healthcheck: {test: [CMD, 'false'], interval: 100ms, retries: 1}"
    )
    manifest.write_text(text)
    refused = holdfast.run("apply", "--yes", "--timeout", "3s", code=None)
    assert refused.returncode != 0 and "unchecked" in refused.stderr, refused
    after = {one["name"]: one for one in holdfast.containers(all=True)}
    assert after["attr/unchecked-1"]["health"] == "unhealthy"
    assert {name: one["id"] for name, one in after.items()} == {
        name: id for name, id in before.items() if name not in ("attr/thrice-2", "attr/thrice-3")
    }

    # a changed dependency is replaced, and restarts what asks for it
    started = after["attr/user-1"]["started"]
    text = text.replace(
        "healthcheck: {test: [CMD, 'false'], interval: 100ms, retries: 1}", "healthcheck: {disable: true}"
    )
    manifest.write_text(text.replace("sleep 0.6;", "sleep 0.1;"))
    planned = holdfast.run("plan", code=3).stdout
    assert "service/checked-1 replace" in " ".join(planned.split()) and "service/user-1 restart" in " ".join(
        planned.split()
    )
    holdfast.apply()
    now = {one["name"]: one for one in holdfast.containers(all=True)}
    assert now["attr/user-1"]["id"] == before["attr/user-1"] and now["attr/user-1"]["started"] > started
    assert now["attr/checked-1"]["id"] != before["attr/checked-1"]
    assert now["attr/unchecked-1"]["health"] == "none"
    assert plan_is_empty(holdfast)


NATIVE = """
apiVersion: holdfast/v1
kind: Stack
metadata: {name: attr}
spec: {name: attr, prune: true, deletion_budget: 1, defaults: {stop_grace_period: 0s, environment: {FROM: defaults}}}
---
apiVersion: holdfast/v1
kind: Image
metadata: {name: built}
spec:
  build:
    context: context
    dockerfile: Recipe
    args: {WORD: hello, FROM_CALLER: }
    target: wanted
    labels: {made: here}
    network: none
---
{apiVersion: holdfast/v1, kind: Image, metadata: {name: loaded, labels: {from: archive}}, spec: {archive: archive.tar}}
---
{apiVersion: holdfast/v1, kind: Config, metadata: {name: text}, spec: {content: first}}
---
{apiVersion: holdfast/v1, kind: Config, metadata: {name: other}, spec: {content: other}}
---
{apiVersion: holdfast/v1, kind: Secret, metadata: {name: key}, spec: {file: key}}
---
apiVersion: holdfast/v1
kind: Service
metadata: {name: web, labels: {tier: front}}
spec: {image: built, command: [sleep, "1000"], configs: [text], deploy: {replicas: 3, update_config: UPDATE}}
---
apiVersion: holdfast/v1
kind: Service
metadata: {name: other}
spec:
  {image: loaded, command: [/bin/busybox, sleep, "1000"], configs: [other], secrets: [key], environment: {FROM: itself}}
---
apiVersion: holdfast/v1
kind: Job
metadata: {name: job}
spec:
  image: busybox
  command: [sh, -c, "echo x >> /runs/list; test $$(wc -l < /runs/list) -ge 3"]
  volumes: [runs:/runs]
  backoff_limit: 2
---
{apiVersion: holdfast/v1, kind: Volume, metadata: {name: runs}}
"""
RECIPE = """
FROM busybox AS base
ARG WORD
ARG FROM_CALLER
RUN mkdir -p /out && echo "$WORD $FROM_CALLER" > /out/said && ls /sys/class/net > /out/links
COPY file /out/file
FROM base AS wanted
FROM busybox AS unwanted
RUN false
"""


def test_native_kinds_do_what_their_fields_say(holdfast: Holdfast) -> None:
    context = holdfast.directory / "context"
    context.mkdir()
    (context / "Recipe").write_text(RECIPE)
    (context / "file").write_text("one")
    holdfast.write("a key", "key")
    program = Path(BUSYBOX).read_bytes()
    layer = layer_tar({"bin/": None, "bin/sh": program, "bin/busybox": program, "etc/": None})
    write_oci_tar(str(holdfast.directory / "archive.tar"), {"one": [layer]})
    holdfast.environment["FROM_CALLER"] = "caller"
    quick = "{parallelism: 2, delay: 300ms, order: stop-first}"
    manifest = holdfast.write(NATIVE.replace("UPDATE", quick), "stack.yaml")
    source = ("-f", "stack.yaml")
    holdfast.run("apply", "--yes", *source)
    assert plan_is_empty(holdfast, *source)
    assert shell(holdfast, "web", "cat /out/file /out/links /out/said; echo $FROM; cat /text") == (
        "onelo\nhello caller\ndefaults\nfirst"
    )
    assert shell(holdfast, "other", "echo $FROM; /bin/busybox cat /run/secrets/key") == "itself\na key"
    assert container(holdfast, "job")["starts"] == 3
    images = {name: one for one in holdfast.json("image", "ls") for name in one["names"]}
    assert images["attr/loaded"]["labels"]["from"] == "archive"
    (web, *_) = [one for one in holdfast.containers(resource="web")]
    assert web["labels"]["tier"] == "front"

    # a changed file of the context shows what is built and what is made anew because of it
    (context / "file").write_text("two")
    planned = " ".join(holdfast.run("plan", *source, code=3).stdout.split())
    assert "image/built build:" in planned and planned.count("replace:") == 3 and "service/other" not in planned
    (context / "file").write_text("one")
    assert plan_is_empty(holdfast, *source)

    # a changed config replaces exactly its users, in batches of two with a pause between
    before = {one["name"]: one["id"] for one in holdfast.containers(all=True)}
    manifest.write_text(NATIVE.replace("UPDATE", quick).replace("content: first", "content: second"))
    actions = holdfast.run("plan", *source, "--json", code=3)
    made = [action for action in json.loads(actions.stdout)["actions"] if action["verb"] == "replace"]
    assert [action["key"] for action in made] == ["service/web"] * 3 and {action["order"] for action in made} == {
        "stop-first"
    }
    holdfast.run("apply", "--yes", *source)
    after = {one["name"]: one for one in holdfast.containers(all=True)}
    changed = {name for name in before if before[name] != after[name]["id"]}
    assert changed == {"attr/web-1", "attr/web-2", "attr/web-3"}
    started = sorted(after[name]["started"] for name in changed)
    assert seconds(started[2]) - seconds(started[1]) >= 0.3
    assert plan_is_empty(holdfast, *source)

    # what is not declared any more goes, but not more at once than the budget allows
    smaller = "---".join(part for part in NATIVE.split("---") if "Job" not in part and "name: other" not in part)
    manifest.write_text(smaller.replace("UPDATE", quick).replace("content: first", "content: second"))
    refused = holdfast.run("apply", "--yes", *source, code=2)
    assert "deletion" in refused.stderr
    assert "remove" not in holdfast.run("plan", "--no-prune", *source).stdout
    holdfast.run("apply", "--yes", "--allow-deletions", *source)
    assert {one["resource"] for one in holdfast.containers(all=True)} == {"web"}
    assert "attr_runs" in {one["name"] for one in holdfast.json("volume", "ls")}


def seconds(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


SMALL = """
name: {stack}
services:
  web:
    image: busybox
    command: sleep 1000
    stop_grace_period: 0s
    environment: {{WORD: "${{WORD:-none}}"}}
"""


def test_manifests_come_from_files_directories_and_standard_input(holdfast: Holdfast) -> None:
    holdfast.environment.pop("WORD", None)
    holdfast.write(SMALL.format(stack="attr"))
    holdfast.write("WORD=from-dotenv\n", ".env")
    assert holdfast.run("validate").returncode == 0
    assert holdfast.run("plan", code=3).returncode == 3
    holdfast.apply()
    assert shell(holdfast, "web", "echo $WORD") == "from-dotenv\n"
    assert plan_is_empty(holdfast) and plan_is_empty(holdfast, "-f", ".")
    assert plan_is_empty(holdfast, "-f", "compose.yaml")
    same = holdfast.run("plan", "-f", "-", stdin=SMALL.format(stack="attr"))
    assert "nothing to change" in same.stdout
    holdfast.environment["WORD"] = "from-caller"
    assert "from-dotenv -> from-caller" in holdfast.run("plan", code=3).stdout

    holdfast.write("services: {web: {environment: {MORE: x}}, extra: {image: busybox, command: sleep 9}}\n", "more.yml")
    planned = holdfast.run("plan", "-f", "compose.yaml", "-f", "more.yml", code=3).stdout
    assert "service/extra-1" in planned and "MORE" in planned
    problem = holdfast.run("validate", "-f", ".", code=2).stderr
    assert "more.yml" in problem and "compose.yaml" in problem  # in a directory files do not override each other

    documents = "\n---\n".join(
        json.dumps({"apiVersion": "holdfast/v1", "kind": "Service", "metadata": {"name": name}, "spec": {
            "image": "busybox", "command": ["sleep", "9"]}})
        for name in ("one", "two")
    )  # fmt: skip
    many = holdfast.run("plan", "-f", "-", stdin=f"name: other\nservices: {{}}\n---\n{documents}", code=3).stdout
    assert "service/one-1" in many and "service/two-1" in many and "stack other" in many
    bad = holdfast.run("apply", "--yes", "-f", "-", stdin="name: other\nservices: {web: {imag: busybox}}\n", code=2)
    assert "<stdin>:2:" in bad.stderr or "-:2:" in bad.stderr, bad.stderr
    assert [one["stack"] for one in holdfast.containers(all=True)] == ["attr"]


REFUSED = """
name: attr
services:
  a: {image: busybox, deploy: {update_config: {monitor: 10s}}}
  b: {image: busybox, deploy: {update_config: {failure_action: rollback}}}
  c: {image: busybox, pull_policy: daily}
  d: {image: busybox, pull_policy: build}
  e: {image: busybox, memswap_limit: 1g}
  f: {image: busybox, network_mode: "service:a"}
volumes:
  nfs: {driver_opts: {type: nfs, device: ":/x", o: addr=10.0.0.1}}
  bind: {driver_opts: {type: none, device: /tmp, o: "bind,noexec"}}
"""
REASONS = {
    3: 'attribute "monitor" is not supported yet',
    4: '"rollback" is not supported yet',
    7: 'attribute "memswap_limit" is not supported yet',
    8: 'network_mode "service:a" is not supported yet',
    10: 'a volume of type "nfs" is not supported yet',
    11: 'option "noexec" of a bind is not supported yet',
}


def test_what_would_not_act_is_refused_where_it_stands(holdfast: Holdfast) -> None:
    holdfast.write(REFUSED.removeprefix("\n"))
    problems = holdfast.run("validate", code=2).stderr.splitlines()
    for line, text in REASONS.items():
        assert any(said.startswith(f"compose.yaml:{line}:") and text in said for said in problems), (text, problems)
    kept = [line for line in REFUSED.splitlines() if line.startswith(("name", "serv", "  c", "  d"))]
    holdfast.write("\n".join(kept))
    problems = holdfast.run("validate", code=2).stderr.splitlines()
    assert ['"daily" is not supported yet' in problems[0], '"build" needs a build' in problems[1]] == [True, True]
