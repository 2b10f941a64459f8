"""Whole builds: real layers, real overlays; RUN goes through a chroot so that no supervisor is needed."""

from __future__ import annotations

import io
import os
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.api import BuildRequest
from runtime.build.builder import build
from runtime.build.cache import keep_recent
from runtime.build.context import context_digest
from runtime.errors import BuildFailed, InvalidSpec, NotFound
from runtime.image.store import ImageRecord, ImageStore
from runtime.layout import Layout
from runtime.snapshot.overlay import list_in_layers, path_in_layers, read_in_layers
from tests.support.build_step import run_in_chroot
from tests.support.images import busybox_image

pytestmark = pytest.mark.root


class Builds:
    """A state root with a busybox image, and a context directory to build from."""

    def __init__(self, path: Path) -> None:
        self.layout = Layout(str(path / "root"), str(path / "run"))
        self.layout.create()
        self.store = ImageStore(self.layout)
        busybox_image(self.store)
        self.context = path / "context"
        self.context.mkdir()
        self.log: list[str] = []
        self.ran: list[str] = []

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.context / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def run_step(self, *args: Any) -> int:
        self.ran.append(args[3][-1])
        return run_in_chroot(*args)

    def build(self, dockerfile: str, **more: Any) -> ImageRecord:
        self.log, self.ran = [], []
        self.write({"Dockerfile": dockerfile})
        request = BuildRequest(context=str(self.context), **more)
        return build(self.store, request, "test", {}, None, self.log.append, self.run_step, self.layout)

    @property
    def cached(self) -> list[str]:
        return [line.split(" CACHED ")[1] for line in self.log if " CACHED " in line]

    def read(self, record: ImageRecord, path: str) -> str:
        data = read_in_layers(self.store.lower_dirs(record), None, path)
        assert data is not None, path
        return data.decode()

    def stat(self, record: ImageRecord, path: str) -> os.stat_result:
        """Of the entry itself: its parent is resolved, its own symlink is not followed."""
        parent, _, name = path.rpartition("/")
        for layer in self.store.lower_dirs(record):
            place = path_in_layers([layer], None, parent or "/")
            if place and os.path.lexists(f"{place}/{name}"):
                return os.lstat(f"{place}/{name}")
        raise AssertionError(path)

    def names(self, record: ImageRecord, path: str) -> list[str]:
        return list_in_layers(self.store.lower_dirs(record), None, path)

    def assert_clean(self) -> None:
        assert os.listdir(self.layout.ingest) == []
        mounts = Path("/proc/self/mountinfo").read_text()
        assert self.layout.root not in mounts


@pytest.fixture
def builds(tmp_path: Path) -> Iterator[Builds]:
    builds = Builds(tmp_path)
    yield builds
    builds.assert_clean()


def owner(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)


# ---- stages -----------------------------------------------------------------------------------------------------


def test_stages_build_from_each_other_and_unused_ones_are_skipped(builds: Builds) -> None:
    record = builds.build(
        "FROM busybox AS one\nRUN echo one > /one\n"
        "FROM busybox AS never\nRUN exit 1\n"
        "FROM busybox AS two\nRUN echo two > /two\n"
        "FROM scratch\nCOPY --from=one /one /\nCOPY --from=two /two /deep/er/\nCOPY --from=busybox /etc/passwd /p\n"
    )
    assert builds.names(record, "/") == ["deep", "one", "p"]
    assert builds.read(record, "/deep/er/two") == "two\n"
    assert "exit 1" not in builds.ran


def test_independent_stages_run_at_the_same_time(builds: Builds) -> None:
    meeting = threading.Barrier(2, timeout=20)

    def run_step(*args: Any) -> int:
        meeting.wait()
        return run_in_chroot(*args)

    builds.run_step = run_step  # type: ignore[method-assign]
    record = builds.build(
        "FROM busybox AS a\nRUN echo a > /a\nFROM busybox AS b\nRUN echo b > /b\n"
        "FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n"
    )
    assert builds.names(record, "/") == ["a", "b"]


def test_a_failing_stage_ends_a_silent_one_beside_it(builds: Builds) -> None:
    ended = threading.Event()

    def run_step(*args: Any) -> int:
        if args[3][-1] != "forever":
            time.sleep(0.2)
            return 3
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            ended.set()
        return 0

    builds.run_step = run_step  # type: ignore[method-assign]
    started = time.monotonic()
    with pytest.raises(BuildFailed, match="exit code 3"):
        builds.build(
            "FROM busybox AS slow\nRUN forever\nFROM busybox AS bad\nRUN fail\n"
            "FROM scratch\nCOPY --from=slow /a /\nCOPY --from=bad /b /\n"
        )
    assert ended.is_set()
    assert time.monotonic() - started < 10


def test_a_target_is_built_alone(builds: Builds) -> None:
    record = builds.build("FROM busybox AS first\nRUN echo x > /x\nFROM first\nRUN exit 1\n", target="first")
    assert builds.read(record, "/x") == "x\n"


def test_a_missing_base_is_named_with_line_and_remedy(builds: Builds) -> None:
    with pytest.raises(NotFound) as caught:
        builds.build("# one\nFROM nowhere:1\n")
    assert 'Dockerfile:2: image "nowhere:1" does not exist here' in str(caught.value)
    assert "declare an Image" in caught.value.hint


# ---- copying ----------------------------------------------------------------------------------------------------


def test_directories_give_their_content_and_files_go_where_they_are_told(builds: Builds) -> None:
    builds.write({"d/a": "a", "d/sub/b": "b", "f": "f", "g": "g"})
    record = builds.build(
        "FROM busybox\nWORKDIR /w\nCOPY d /new\nCOPY d ./\nCOPY f name\nCOPY f g many/\nCOPY d f both/\nCOPY f /tmp\n"
    )
    assert builds.names(record, "/new") == ["a", "sub"]
    assert builds.names(record, "/w") == ["a", "both", "many", "name", "sub"]
    assert builds.names(record, "/w/many") == ["f", "g"]
    assert builds.names(record, "/w/both") == ["a", "f", "sub"]
    assert builds.names(record, "/tmp") == ["f"]


def test_wildcards_copy_what_they_match_and_nothing_is_fine_beside_something(builds: Builds) -> None:
    builds.write({"a.txt": "", "b.txt": "", "c.md": "", "x/1.c": "", "y/2.c": ""})
    record = builds.build("FROM scratch\nCOPY *.txt none* /t/\nCOPY */*.c /c/\n")
    assert (builds.names(record, "/t"), builds.names(record, "/c")) == (["a.txt", "b.txt"], ["1.c", "2.c"])


def test_modes_links_and_times_are_kept_and_the_owner_is_root(builds: Builds) -> None:
    builds.write({"d/run": "#!", "d/plain": ""})
    (builds.context / "d/run").chmod(0o4750)
    os.link(builds.context / "d/plain", builds.context / "d/twin")
    (builds.context / "d/link").symlink_to("../outside")
    for path in (builds.context / "d/run", builds.context / "d"):
        os.chown(path, 1234, 1234)
    (builds.context / "d/run").chmod(0o4750)
    os.utime(builds.context / "d/run", (1_000_000_000, 1_000_000_000))
    (builds.context / "d/sub").mkdir()
    (builds.context / "d/sub").chmod(0o751)
    (builds.context / "d").chmod(0o711)
    record = builds.build("FROM scratch\nCOPY d /d\n")
    assert owner(builds.stat(record, "/d/run")) == (0, 0, 0o4750)
    assert builds.stat(record, "/d/run").st_mtime == 1_000_000_000
    assert owner(builds.stat(record, "/d")) == (0, 0, 0o755)
    assert owner(builds.stat(record, "/d/sub")) == (0, 0, 0o751)
    place = path_in_layers(builds.store.lower_dirs(record), None, "/d")
    assert os.readlink(f"{place}/link") == "../outside"
    assert os.stat(f"{place}/plain").st_ino == os.stat(f"{place}/twin").st_ino


def test_chown_looks_names_up_in_the_image_and_chmod_sets_all(builds: Builds) -> None:
    builds.write({"d/f": "", "e": ""})
    record = builds.build(
        "FROM busybox\nARG who=app\nCOPY --chown=$who:extra d /x/y\nCOPY --chown=55 e /n\nCOPY --chmod=0640 e /m\n"
        "COPY --chown=app e /made/e\n"
    )
    assert owner(builds.stat(record, "/x/y/f"))[:2] == (1000, 2000)
    assert owner(builds.stat(record, "/x"))[:2] == (1000, 2000)
    assert owner(builds.stat(record, "/n"))[:2] == (55, 55)
    assert owner(builds.stat(record, "/m")) == (0, 0, 0o640)
    assert owner(builds.stat(record, "/made")) == (1000, 1000, 0o755)


def test_an_unknown_owner_or_mode_fails_with_the_line(builds: Builds) -> None:
    builds.write({"f": ""})
    with pytest.raises(BuildFailed, match=r'Dockerfile:2: COPY --chown=nobodyhere f /: .*user "nobodyhere"'):
        builds.build("FROM busybox\nCOPY --chown=nobodyhere f /\n")
    with pytest.raises(BuildFailed, match='--chmod "u\\+x" is not an octal mode'):
        builds.build("FROM busybox\nCOPY --chmod=u+x f /\n")


def test_files_of_a_stage_keep_their_owners(builds: Builds) -> None:
    record = builds.build(
        "FROM busybox AS a\nRUN mkdir -p -m 700 /d/sub && echo x > /d/f && chown -R 7:8 /d\n"
        "FROM scratch\nCOPY --from=a /d /d\n"
    )
    assert owner(builds.stat(record, "/d/f"))[:2] == (7, 8)
    assert owner(builds.stat(record, "/d/sub")) == (7, 8, 0o700)
    assert owner(builds.stat(record, "/d")) == (0, 0, 0o755)  # the content was copied, not the directory


def test_existing_parents_keep_their_attributes_and_siblings_stay(builds: Builds) -> None:
    builds.write({"f": "new"})
    record = builds.build(
        "FROM busybox\nRUN mkdir -m 1770 /keep && chown 5:6 /keep && echo old > /keep/other && mkdir /keep/sub\n"
        "COPY f /keep/sub/f\nCOPY f /keep/\n"
    )
    assert owner(builds.stat(record, "/keep")) == (5, 6, 0o1770)
    assert builds.names(record, "/keep") == ["f", "other", "sub"]


def test_a_symlink_of_the_image_leads_within_the_image_only(builds: Builds, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    builds.write({"f": "x", "d/g": "y"})
    record = builds.build(
        f"FROM busybox\nRUN ln -s {outside} /abs && ln -s ../../../../..{outside} /rel\n"
        "RUN mkdir /real && ln -s real /l\n"
        "COPY f /abs/f\nCOPY f /rel/f2\nCOPY d /l\n"
    )
    assert os.listdir(outside) == []
    assert builds.read(record, f"{outside}/f") == builds.read(record, f"{outside}/f2") == "x"
    assert builds.names(record, "/real") == ["g"]
    assert stat.S_ISLNK(builds.stat(record, "/l").st_mode)


def test_a_symlink_of_the_context_never_reads_the_host(builds: Builds) -> None:
    (builds.context / "steal").symlink_to("/etc/hostname")
    with pytest.raises(BuildFailed, match=r'Dockerfile:2: COPY steal /: "steal" not found'):
        builds.build("FROM scratch\nCOPY steal /\n")


def test_ignored_files_do_not_exist_for_the_build(builds: Builds) -> None:
    builds.write(
        {".dockerignore": "secret\n*/cache\n!web/cache\n", "secret": "s", "web/cache/a": "", "api/cache/b": ""}
    )
    record = builds.build("FROM scratch\nCOPY . /\n")
    assert builds.names(record, "/") == [".dockerignore", "Dockerfile", "api", "web"]
    assert builds.names(record, "/api") == [] and builds.names(record, "/web/cache") == ["a"]
    with pytest.raises(BuildFailed, match="excluded by the ignore file"):
        builds.build("FROM scratch\nCOPY secret /\n")


def test_what_cannot_be_copied_says_why(builds: Builds) -> None:
    builds.write({"f": "", "g": "", "d/x": ""})
    for line, cause in (
        ("COPY absent /", '"absent" not found'),
        ("COPY f g /name", "destination must be a directory"),
        ("COPY d /etc/passwd", "is not a directory"),
        ("COPY f /etc/passwd/x", "is not a directory"),
    ):
        with pytest.raises(BuildFailed, match=cause):
            builds.build(f"FROM busybox\n{line}\n")


def test_documents_in_the_dockerfile_become_files(builds: Builds) -> None:
    record = builds.build(
        "FROM scratch\nENV NAME=world\nCOPY <<A <<'B' /d/\nhello \"$NAME\"\nA\n$NAME\nB\n"
        "COPY --chmod=755 <<-EOF /s\n\tx\n\tEOF\n"
    )
    assert builds.read(record, "/d/A") == 'hello "world"\n'
    assert builds.read(record, "/d/B") == "$NAME\n"
    assert builds.read(record, "/s") == "x\n"
    assert owner(builds.stat(record, "/s")) == (0, 0, 0o755)


# ---- ADD --------------------------------------------------------------------------------------------------------


def write_tar(path: Path, mode: str, *extra: tarfile.TarInfo) -> None:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        folder = tarfile.TarInfo("top")
        folder.type, folder.mode, folder.uid = tarfile.DIRTYPE, 0o750, 11
        tar.addfile(folder)
        file = tarfile.TarInfo("top/file")
        file.size, file.mode, file.uid, file.gid, file.mtime = 4, 0o640, 11, 12, 1_000_000_000
        tar.addfile(file, io.BytesIO(b"text"))
        for name, kind in (("top/soft", tarfile.SYMTYPE), ("top/hard", tarfile.LNKTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "file" if kind == tarfile.SYMTYPE else "top/file"
            tar.addfile(link)
        for entry in extra:
            tar.addfile(entry)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_local_archive_is_unpacked_whatever_its_name(builds: Builds, mode: str) -> None:
    write_tar(builds.context / "data.bin", mode)
    record = builds.build("FROM busybox\nADD data.bin /opt/x\n")
    assert builds.names(record, "/opt/x/top") == ["file", "hard", "soft"]
    info = builds.stat(record, "/opt/x/top/file")
    assert owner(info) == (11, 12, 0o640)
    assert (info.st_mtime, info.st_nlink) == (1_000_000_000, 2)
    assert owner(builds.stat(record, "/opt/x/top")) == (11, 0, 0o750)
    assert owner(builds.stat(record, "/opt/x")) == (0, 0, 0o755)


def test_a_zstd_archive_is_unpacked_too(builds: Builds) -> None:
    zstd = pytest.importorskip("backports.zstd")
    write_tar(builds.context / "plain.tar", "w")
    (builds.context / "a.tar.zst").write_bytes(zstd.compress((builds.context / "plain.tar").read_bytes()))
    assert builds.names(builds.build("FROM scratch\nADD a.tar.zst /\n"), "/top") == ["file", "hard", "soft"]


def test_other_files_are_only_copied_and_copy_unpacks_nothing(builds: Builds) -> None:
    write_tar(builds.context / "a.tar", "w")
    builds.write({"fake.tar.gz": "no archive", "empty.tar": ""})
    record = builds.build("FROM scratch\nADD fake.tar.gz empty.tar /\nCOPY a.tar /\n")
    assert builds.names(record, "/") == ["a.tar", "empty.tar", "fake.tar.gz"]


def test_an_archive_cannot_lead_out_of_the_image(builds: Builds, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = tarfile.TarInfo("door")
    link.type, link.linkname = tarfile.SYMTYPE, str(outside)
    through = tarfile.TarInfo("door/file")
    write_tar(builds.context / "a.tar", "w", link, through)
    builds.build("FROM scratch\nADD a.tar /\n")
    assert os.listdir(outside) == []
    write_tar(builds.context / "b.tar", "w", tarfile.TarInfo("../../up"))
    with pytest.raises(BuildFailed, match="leads out of the destination"):
        builds.build("FROM scratch\nADD b.tar /x/y\n")


def test_a_truncated_archive_fails_with_its_line(builds: Builds) -> None:
    write_tar(builds.context / "a.tgz", "w:gz")
    data = (builds.context / "a.tgz").read_bytes()
    (builds.context / "a.tgz").write_bytes(data[: len(data) * 2 // 3])
    try:
        record = builds.build("FROM scratch\nADD a.tgz /\n")
    except BuildFailed as error:
        assert "Dockerfile:2: ADD a.tgz /: cannot unpack" in str(error)
    else:  # cut so early that it is no archive at all: then it is a file like any other
        assert builds.names(record, "/") == ["a.tgz"]


# ---- RUN, arguments, configuration ------------------------------------------------------------------------------


def test_run_sees_variables_arguments_and_the_working_directory(builds: Builds) -> None:
    record = builds.build(
        'ARG outer=o\nFROM busybox AS base\nARG outer\nARG given=default\nARG hidden=arg\nENV hidden=env e="a b"\n'
        'ARG unset\nWORKDIR dir\nFROM base\nRUN echo "$outer $given $hidden $e ${unset-none} $HTTP_PROXY" > out\n',
        args={"given": "set", "HTTP_PROXY": "p"},
    )
    assert builds.read(record, "/dir/out") == "o set env a b none p\n"
    assert record.config["config"]["Env"] == ["PATH=/bin:/usr/bin", "hidden=env", "e=a b"]


def test_arguments_never_used_are_mentioned(builds: Builds) -> None:
    builds.build("FROM busybox\n", args={"typo": "1"})
    assert any("build argument typo is not used" in line for line in builds.log)


def test_heredocs_run_as_scripts(builds: Builds) -> None:
    record = builds.build(
        "FROM busybox\nRUN <<EOF\nset -e\necho one > /a\ncd /tmp\npwd > /b\nEOF\n"
        'RUN <<EOF\n#!/bin/busybox ash\necho "$0" > /c\nEOF\n'
        "RUN cat <<X > /d\nbody\nX\n"
    )
    assert [builds.read(record, path) for path in ["/a", "/b", "/d"]] == ["one\n", "/tmp\n", "body\n"]
    assert builds.names(record, "/") == sorted(
        [*["a", "b", "bin", "c", "d", "dev", "etc", "home", "proc", "root", "sys", "tmp", "usr", "var"]]
    )


def test_exec_form_runs_without_a_shell_and_removals_become_whiteouts(builds: Builds) -> None:
    record = builds.build('FROM busybox\nRUN ["/bin/rm", "-r", "/home", "/etc/group"]\n')
    assert "home" not in builds.names(record, "/")
    assert builds.names(record, "/etc") == ["passwd"]


def test_a_step_that_changes_nothing_makes_no_layer_but_a_changed_directory_does(builds: Builds) -> None:
    record = builds.build(
        "FROM busybox\nRUN touch /etc/x && rm /etc/x\nRUN mkdir /empty\nRUN chmod 700 /empty\n"
        "RUN rm -r /home && mkdir /home\n"
    )
    assert [bool(entry.get("empty_layer")) for entry in record.config["history"]] == [True, False, False, False]
    assert len(record.layers) == 4
    assert owner(builds.stat(record, "/empty")) == (0, 0, 0o700)
    assert builds.names(record, "/home") == []


def test_the_configuration_is_dockers(builds: Builds) -> None:
    record = builds.build(
        'FROM busybox\nMAINTAINER me\nLABEL a=1 "b c"="d e"\nENV X=1\nENV Y=$X\nUSER app:extra\n'
        "WORKDIR /srv\nWORKDIR app\n"
        "EXPOSE 80 8000-8001/udp\nVOLUME /data /more\nSTOPSIGNAL SIGQUIT\n"
        "HEALTHCHECK --interval=5s CMD true\nCMD echo hi\n",
        labels={"given": "l"},
    )
    assert record.config["config"] == {
        "Env": ["PATH=/bin:/usr/bin", "X=1", "Y=1"],
        "Cmd": ["/bin/sh", "-c", "echo hi"],
        "Labels": {"a": "1", "b c": "d e", "given": "l"},
        "User": "app:extra",
        "WorkingDir": "/srv/app",
        "ExposedPorts": {"80/tcp": {}, "8000/udp": {}, "8001/udp": {}},
        "Volumes": {"/data": {}, "/more": {}},
        "StopSignal": "SIGQUIT",
        "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000},
    }
    history = record.config["history"]
    assert len([entry for entry in history if not entry.get("empty_layer")]) == len(record.layers) - 1
    assert [entry["created_by"].split()[0] for entry in history][:3] == ["MAINTAINER", "LABEL", "ENV"]
    assert record.config["author"] == "me"
    assert owner(builds.stat(record, "/srv/app"))[:2] == (1000, 2000)
    assert record.config["rootfs"]["diff_ids"] == list(record.layers)


def test_triggers_of_a_base_run_once(builds: Builds) -> None:
    builds.write({"f": "x"})
    record = builds.build(
        "FROM busybox AS base\nONBUILD COPY f /f\nONBUILD RUN cp /f /g\nFROM base AS child\n"
        "FROM child\nRUN test -e /g\n"
    )
    assert builds.read(record, "/g") == "x"
    assert "OnBuild" not in record.config["config"]


def test_a_demanded_argument_stops_the_build_with_its_line(builds: Builds) -> None:
    with pytest.raises(InvalidSpec, match=r"Dockerfile:2: ENV V=.*: W: give W"):
        builds.build('FROM busybox\nENV V="${W:?give W}"\n')


# ---- the cache --------------------------------------------------------------------------------------------------

APP = "FROM busybox\nCOPY dep /dep\nRUN cat /dep > /installed\nCOPY src /src\nRUN cat /src/main > /built\n"


def test_a_second_build_runs_nothing_and_gives_the_same_image(builds: Builds) -> None:
    builds.write({"dep": "1", "src/main": "1"})
    first = builds.build(APP)
    assert builds.cached == []
    again = builds.build(APP)
    assert (again.id, builds.ran) == (first.id, [])
    assert len(builds.cached) == 4


def test_a_changed_file_changes_the_digest_and_reruns_only_what_follows(builds: Builds) -> None:
    builds.write({"dep": "1", "src/main": "1"})
    builds.build(APP)
    request = BuildRequest(context=str(builds.context))
    before = context_digest(request, builds.layout.build_cache)
    builds.write({"src/main": "2"})
    assert context_digest(request, builds.layout.build_cache) != before
    record = builds.build(APP)
    assert builds.ran == ["cat /src/main > /built"]
    assert builds.cached == ["COPY dep /dep", "RUN cat /dep > /installed"]
    assert builds.read(record, "/built") == "2"


def test_a_touched_file_reruns_nothing(builds: Builds) -> None:
    builds.write({"dep": "1", "src/main": "1"})
    first = builds.build(APP)
    os.utime(builds.context / "dep", (1, 1))
    assert builds.build(APP).id == first.id


def test_an_argument_reruns_only_the_steps_that_see_it(builds: Builds) -> None:
    text = "FROM busybox\nRUN echo a > /a\nARG V=1\nRUN echo $V > /v\n"
    builds.build(text)
    record = builds.build(text, args={"V": "2"})
    assert (builds.ran, builds.read(record, "/v")) == (["echo $V > /v"], "2\n")
    builds.build(text, args={"V": "2", "HTTPS_PROXY": "anything"})
    assert builds.ran == []


def test_another_user_directory_or_variable_is_another_step(builds: Builds) -> None:
    builds.build("FROM busybox\nRUN true\n")
    for line in ("ENV A=1", "WORKDIR /tmp", "USER 1000", 'SHELL ["/bin/busybox", "sh", "-c"]'):
        builds.build(f"FROM busybox\n{line}\nRUN true\n")
        assert builds.ran == ["true"], line


def test_the_cache_outlives_the_process_but_not_its_layers(builds: Builds) -> None:
    text = "FROM busybox\nRUN echo a > /a\n"
    first = builds.build(text)
    builds.store = ImageStore(builds.layout)
    builds.build(text)
    assert builds.ran == []
    builds.store.remove("test", True)
    builds.store.collect([])
    assert not builds.store.has_layer(first.layers[-1])
    builds.build(text)
    assert builds.ran == ["echo a > /a"]


def test_layers_of_recent_steps_can_be_kept_and_old_entries_are_forgotten(builds: Builds) -> None:
    text = "FROM busybox AS a\nRUN echo a > /a\nFROM scratch\nCOPY --from=a /a /b\n"
    builds.build(text)
    layers = keep_recent(builds.layout, time.time() - 60)
    assert len(layers) == 2
    builds.store.collect(layers)
    builds.build(text)
    assert builds.ran == []
    assert keep_recent(builds.layout, time.time() + 60) == []
    builds.build(text)
    assert builds.ran == ["echo a > /a"]


def test_no_cache_runs_everything(builds: Builds) -> None:
    builds.build("FROM busybox\nRUN true\n")
    builds.build("FROM busybox\nRUN true\n", no_cache=True)
    assert (builds.ran, builds.cached) == (["true"], [])


# ---- failures ---------------------------------------------------------------------------------------------------


def test_a_failed_step_names_line_instruction_code_and_last_output(builds: Builds) -> None:
    with pytest.raises(BuildFailed) as caught:
        builds.build("FROM busybox\n\nRUN for i in $(seq 30); do echo line $i; done; \\\n  exit 7\n")
    message = str(caught.value)
    assert 'cannot build image "test": Dockerfile:3: RUN for i in' in message
    assert "exit code 7" in message
    assert message.endswith("line 30") and "line 11" in message and "line 10\n" not in message
    assert builds.store.get("test") is None


def test_a_file_name_that_means_a_removal_fails_with_its_line(builds: Builds) -> None:
    with pytest.raises(BuildFailed, match=r"Dockerfile:2: RUN echo x > /\.wh\.x: .*rename the file"):
        builds.build("FROM busybox\nRUN echo x > /.wh.x\n")


def test_progress_names_stage_step_and_output(builds: Builds) -> None:
    builds.build("FROM busybox AS web\nRUN echo hello\nENV A=1\n")
    assert builds.log == [
        "[web 1/3] FROM busybox AS web",
        "[web 2/3] RUN echo hello",
        "[web 2/3]   hello",
        "[web 3/3] ENV A=1",
    ]


def test_an_earlier_image_stays_when_a_build_fails(builds: Builds) -> None:
    first = builds.build("FROM busybox\nRUN true\n")
    with pytest.raises(BuildFailed):
        builds.build("FROM busybox\nRUN false\n")
    found = builds.store.get("test")
    assert found is not None and found.id == first.id


def test_an_interrupted_step_leaves_nothing(builds: Builds) -> None:
    def stop(line: str) -> None:
        if "started" in line and "RUN" not in line:
            raise KeyboardInterrupt

    builds.write({"Dockerfile": "FROM busybox\nRUN echo started; sleep 60\n"})
    request = BuildRequest(context=str(builds.context))
    with pytest.raises(KeyboardInterrupt):
        build(builds.store, request, "test", {}, None, stop, run_in_chroot, builds.layout)
    builds.assert_clean()


KILLED = """
import sys
from runtime.api import BuildRequest
from runtime.build.builder import build
from runtime.build.cache import keep_recent
from runtime.image.store import ImageStore
from runtime.layout import Layout
from tests.support.build_step import run_in_chroot
layout = Layout(sys.argv[1], sys.argv[2])
def tell(line):
    print(line, flush=True)
build(ImageStore(layout), BuildRequest(context=sys.argv[3]), "test", {}, None, tell, run_in_chroot, layout)
"""


def test_a_killed_build_leaves_only_what_recovery_sweeps(builds: Builds) -> None:
    builds.write({f"d/{n}": "x" * 1000 for n in range(2000)})
    builds.write({"Dockerfile": "FROM busybox\nCOPY d /d\nCOPY d /e\n"})
    run = str(Path(builds.layout.run).parent)
    command = [sys.executable, "-c", KILLED, builds.layout.root, run, str(builds.context)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if b"COPY d /e" in line:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
    builds.store.recover()
    builds.assert_clean()
    record = builds.build("FROM busybox\nCOPY d /d\nCOPY d /e\n")
    assert "COPY d /d" in builds.cached
    assert len(builds.names(record, "/e")) == 2000
