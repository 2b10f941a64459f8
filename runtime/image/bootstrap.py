"""Make an image from the distribution's own signed packages with mmdebstrap, without a registry.

The request is the image's identity: an equal one gives the image made before, whatever the archive offers by now, until
`force` asks for a fresh one. Downloaded packages are kept below the state root and shared by hard links.
"""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import shutil
import signal
import stat
import subprocess
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from runtime import api
from runtime.errors import BuildFailed, InvalidSpec, Unsupported
from runtime.image import apt
from runtime.image.content import Ingest, digest_of, translating
from runtime.image.store import ImageRecord, ImageStore
from runtime.layout import Layout
from runtime.lock import locked

VARIANTS = (
    "extract", "custom", "essential", "apt", "required", "minbase", "buildd", "important", "debootstrap", "standard",
)  # fmt: skip
"""`extract` holds the files of the named packages and their dependencies and nothing else."""
_RECIPE = 1
"""Part of a request's digest: raised when the same request would now give another image."""
_SILENCE = 900.0
_LONGEST = 3600.0
_CACHE_LIMIT = 1 << 30
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "ppc64le": "ppc64le"}
_DAMAGED = re.compile(r"dpkg[a-z-]*: error|corrupt|unexpected end of file")
_NOISE = ("I: running --", "I: skipping ", "I: main()", "I: success")
_UNWANTED = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
)


def request_digest(request: api.BootstrapRequest) -> str:
    """Identity of a request; the order of packages means nothing."""
    canonical = {
        "recipe": _RECIPE,
        "kind": "bootstrap",
        "suite": _suite(request),
        "packages": sorted(set(request.packages)),
        "variant": request.variant,
        "mirror": request.mirror,
        "config": request.config,
        "machine": os.uname().machine,
    }
    return digest_of(json.dumps(canonical, sort_keys=True, separators=(",", ":")).encode())


def bootstrap(
    store: ImageStore,
    request: api.BootstrapRequest,
    name: str | None,
    labels: api.Labels,
    declared: api.Json,
    progress: api.Progress,
    force: bool = False,
) -> ImageRecord:
    """Point `name` at the image of `request`, made now or before. Raises BuildFailed with mmdebstrap's last lines."""
    check(request)
    origin = request_digest(request)
    what = f'image "{name or "bootstrap of " + _suite(request)}"'
    # equal requests in parallel: one works, the others take its result
    os.makedirs(store.layout.locks, mode=0o700, exist_ok=True)
    with locked(f"{store.layout.locks}/bootstrap-{origin[7:23]}", timeout=_LONGEST), store.lease() as made:
        known = None if force else store.recall(origin)
        if known is not None:
            progress("bootstrap: made before, taken as it is")
            raw = store.blobs.read(known.id)
            return store.commit_raw(raw, name, labels, declared) if name else known
        started = time.time()
        with store.ingest() as ingest:
            _run_mmdebstrap(store.layout, ingest, request, what, progress)
            progress("bootstrap: packing")
            with translating(f"make {what}"):
                newest = _tidy(ingest.tree, started)
                layer = store.add_layer_from_dir(ingest.tree, progress)
        made.append(layer)
        record = store.commit(_image_config(request, newest), [layer], name, labels, declared)
        store.remember(origin, record.id)
        progress(f"bootstrap: done in {time.time() - started:.0f} s, {record.size / 1e6:.0f} MB")
        return record


def check(request: api.BootstrapRequest) -> None:
    """Raise InvalidSpec for what can never work; the values become arguments and may not look like options."""

    def refuse(field: str, value: str, hint: str) -> None:
        raise InvalidSpec(f'cannot bootstrap image: {field} "{value}" is not valid', hint)

    suite = _suite(request)
    if not re.fullmatch(r"[a-z][a-z0-9./-]*", suite):
        refuse("suite", suite, "give a codename such as bookworm or noble")
    if request.variant not in VARIANTS:
        refuse("variant", request.variant, f"one of {', '.join(VARIANTS)}")
    for package in request.packages:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*(:[a-z0-9]+)?([=/][A-Za-z0-9.+:~-]+)?", package):
            refuse("package", package, "a package name, optionally with =version or /suite")
    if request.mirror and not re.fullmatch(r"(deb |https?://|file:/|copy:/|/)[^\n\r]*", request.mirror):
        refuse("mirror", request.mirror, "a URL or a whole `deb` line")
    if request.config is not None and not isinstance(request.config, Mapping):
        refuse("config", str(request.config), "a mapping of image config fields")


def _suite(request: api.BootstrapRequest) -> str:
    return apt.host_codename() if request.suite in ("", "host") else request.suite


# ---- running mmdebstrap -----------------------------------------------------------------------------------------


def _run_mmdebstrap(
    layout: Layout, ingest: Ingest, request: api.BootstrapRequest, what: str, progress: api.Progress
) -> None:
    program = shutil.which("mmdebstrap")
    if program is None:
        raise Unsupported(f"cannot make {what}: mmdebstrap is not installed", "apt-get install mmdebstrap")
    if os.geteuid() != 0:
        raise Unsupported(f"cannot make {what}: a bootstrap needs root", "run as root")
    cache = f"{layout.root}/cache/apt"
    with translating(f"make {what}"):
        os.makedirs(cache, mode=0o700, exist_ok=True)
        # apt parses what the network sends as its own user, who must be able to get there
        os.chmod(ingest.path, 0o711)  # noqa: S103
        os.chmod(ingest.layer, 0o711)  # noqa: S103
        argv = [*_private(), program, *_arguments(ingest, request, cache)]
    progress(f"bootstrap: {_suite(request)} with {', '.join(request.packages) or 'no further packages'}")
    code, tail = _follow(argv, ingest.path, progress)
    if code != 0:
        if _DAMAGED.search("\n".join(tail)):
            # a power cut may have left a damaged package here: what failed once must not fail for ever
            shutil.rmtree(cache, ignore_errors=True)
        _raise_failure(layout, what, code, tail)
    _bound_cache(cache)


def _arguments(ingest: Ingest, request: api.BootstrapRequest, cache: str) -> list[str]:
    suite = _suite(request)
    arguments = [
        "--mode=root", f"--variant={request.variant}", "--format=directory", "--skip=essential/unlink,check/qemu",
        "--aptopt=Acquire::Languages \"none\"", "--dpkgopt=force-unsafe-io",
    ]  # fmt: skip
    options = apt.transport_options()
    if options:
        path = f"{ingest.path}/apt.conf"
        with open(path, "w") as file:
            file.write("\n".join(options) + "\n")
        arguments.append(f"--aptopt={path}")
    if request.variant in ("essential", "apt", "required", "minbase"):
        arguments.extend(f"--dpkgopt={option}" for option in _UNWANTED)
        # the set-up scripts of some packages (Java's) expect the directories that path-exclude leaves out
        arguments.append('--setup-hook=for i in 1 2 3 4 5 6 7 8; do mkdir -p "$1/usr/share/man/man$i"; done')
    quoted = shlex.quote(cache)
    arguments.append(
        '--setup-hook=mkdir -p "$1/var/cache/apt/archives"; '
        f'find {quoted} -name "*.deb" -exec cp -lfn -t "$1/var/cache/apt/archives" {{}} + || true'
    )
    arguments.append(
        '--customize-hook=find "$1/var/cache/apt/archives" -maxdepth 1 -name "*.deb" '
        f"-exec cp -lfn -t {quoted} {{}} + || true"
    )
    arguments.extend(f"--include={package}" for package in request.packages)
    arguments += ["--", suite, ingest.tree]
    if request.mirror:
        arguments.append(request.mirror)
    else:
        arguments.extend(source.line() for source in apt.sources_for(suite))
    return arguments


def _private() -> list[str]:
    """A wrapper under which nothing outlives this thread: own mounts and processes, all killed with us."""
    wrapper = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
    try:
        works = subprocess.run([*wrapper, "true"], check=False, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.SubprocessError):
        works = False
    if not works:
        return []
    return ["setpriv", "--pdeathsig=KILL", *wrapper] if shutil.which("setpriv") else wrapper


def _follow(argv: list[str], folder: str, progress: api.Progress) -> tuple[int, list[str]]:
    """Run, pass on its progress, and return its exit code (negative: killed by us) and its last lines."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", "TMPDIR": folder}
    environment["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    environment.pop("SOURCE_DATE_EPOCH", None)  # it would make Python check hashes of its caches at every start
    tail: deque[str] = deque(maxlen=15)
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/", env=environment,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        fd, rest = process.stdout.fileno(), b""
        begun = heard = time.monotonic()
        while True:
            now = time.monotonic()
            if now - begun > _LONGEST or now - heard > _SILENCE:
                tail.append(f"stopped: no end after {now - begun:.0f} s, last output {now - heard:.0f} s ago")
                return -signal.SIGKILL, list(tail)
            if not select.select([fd], [], [], 1.0)[0]:
                continue
            data = os.read(fd, 65536)
            if not data:
                break
            heard = now
            *lines, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                text = line.decode("utf-8", "replace").strip()
                if not text or text.startswith(_NOISE):
                    continue
                if text.startswith("I: "):
                    progress(f"bootstrap: {text[3:]}")
                else:
                    tail.append(text)
        return process.wait(timeout=60), list(tail)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout:
            process.stdout.close()


def _raise_failure(layout: Layout, what: str, code: int, tail: list[str]) -> None:
    text = "\n".join(tail)
    found = os.statvfs(layout.root)
    if (
        "No space left on device" in text
        or "not enough free space" in text
        or found.f_bavail * found.f_frsize < 1 << 20
    ):
        with translating(f"make {what}"):
            raise OSError(28, "No space left on device")
    errors = [line[3:] for line in tail if line.startswith("E: ")]
    missing = re.search(r"Unable to locate package (\S+)", text)
    cause = f"no package {missing[1]}" if missing else (errors[0] if errors else f"mmdebstrap ended with {code}")
    hint = "check the network and the host's apt sources" if "Failed to fetch" in text else ""
    raise BuildFailed(f"cannot make {what}: {cause}\n" + "\n".join(f"  {line}" for line in tail), hint)


def _bound_cache(cache: str) -> None:
    """Keep the packages used last; linking a package changes its ctime."""
    packages = []
    try:
        for entry in os.scandir(cache):
            info = entry.stat(follow_symlinks=False)
            packages.append((info.st_ctime, info.st_size, entry.path))
    except FileNotFoundError:
        return
    total = sum(size for _, size, _ in packages)
    for _, size, path in sorted(packages):
        if total <= _CACHE_LIMIT:
            return
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        total -= size


# ---- the result -------------------------------------------------------------------------------------------------


def _tidy(root: str, started: float) -> float:
    """Remove what belongs to one machine or one moment; returns the newest package file's time.

    Files that the installation itself wrote get that time too, so that the same packages give the same layer. Files
    from packages keep theirs, because Python's caches name them.
    """
    for path in ("etc/hostname", "etc/resolv.conf", "etc/machine-id", "var/lib/dbus/machine-id",
                 "etc/apt/apt.conf.d/99mmdebstrap", "var/cache/ldconfig/aux-cache", "etc/.pwd.lock"):  # fmt: skip
        _remove(f"{root}/{path}")
    for folder in ("dev", "tmp", "run", "var/tmp", "var/cache/apt", "var/lib/apt/lists", "var/cache/debconf"):
        for name in _list(f"{root}/{folder}"):
            if folder != "var/cache/debconf" or name.endswith("-old"):
                _remove(f"{root}/{folder}/{name}")
    for name in _list(f"{root}/var/lib/dpkg"):
        if name.endswith("-old"):
            _remove(f"{root}/var/lib/dpkg/{name}")
    for folder, _, files in os.walk(f"{root}/var/log"):
        for name in files:
            _remove(f"{folder}/{name}")
    settings = f"{root}/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
    if os.path.isfile(settings):
        with open(settings) as file:
            kept = [line for line in file if not line.startswith("force-unsafe-io")]
        with open(settings, "w") as file:
            file.writelines(kept)
    # an empty file: the first start may fill it, and no two containers share an identity
    with open(f"{root}/etc/machine-id", "w"):
        pass
    newest, fresh = 0.0, []
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = f"{folder}/{name}"
            info = os.lstat(path)
            if info.st_mtime >= started - 1:
                fresh.append(path)
            else:
                newest = max(newest, info.st_mtime)
    for path in fresh:
        os.utime(path, (newest, newest), follow_symlinks=False)
    return newest


def _list(folder: str) -> list[str]:
    try:
        return os.listdir(folder) if stat.S_ISDIR(os.lstat(folder).st_mode) else []
    except FileNotFoundError:
        return []


def _remove(path: str) -> None:
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass


def _image_config(request: api.BootstrapRequest, newest: float) -> dict[str, Any]:
    fields: dict[str, Any] = {"Env": [_PATH], "Cmd": ["/bin/bash"]}
    given = dict(request.config or {})
    environment = given.pop("Env", None)
    if isinstance(environment, Mapping):
        environment = [f"{key}={value}" for key, value in environment.items()]
    if environment is not None:
        if not any(entry.startswith("PATH=") for entry in environment):
            environment = [_PATH, *environment]
        fields["Env"] = list(environment)
    if "Entrypoint" in given and "Cmd" not in given:
        del fields["Cmd"]
    fields.update(given)
    machine = os.uname().machine
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(newest))
    packages = f" --include={','.join(sorted(set(request.packages)))}" if request.packages else ""
    return {
        "architecture": _ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "created": created,
        "config": fields,
        "history": [
            {"created": created, "created_by": f"mmdebstrap --variant={request.variant}{packages} {_suite(request)}"}
        ],
    }
