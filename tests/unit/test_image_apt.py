"""Which of the host's apt sources a bootstrap takes, in both notations."""

from pathlib import Path

from runtime.image.apt import host_codename, sources_for

DEB822 = """\
Types: deb deb-src
# a comment
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Enabled: yes

Types: deb
Enabled: no
URIs: http://off.example/
Suites: bookworm
Components: main
"""
ONE_LINE = """\
# deb http://commented.example bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/ubuntu bookworm-backports main universe # note
deb http://third-party.example bookworm stable
deb-src http://source.example bookworm main
deb http://elsewhere.example trixie main
"""


def etc(path: Path) -> str:
    (path / "sources.list.d").mkdir()
    (path / "sources.list").write_text(ONE_LINE)
    (path / "sources.list.d/debian.sources").write_text(DEB822)
    (path / "sources.list.d/x.disabled").write_text("deb http://disabled.example bookworm main\n")
    return str(path)


def test_the_hosts_suite_takes_the_hosts_own_archive_and_no_third_party(tmp_path: Path) -> None:
    lines = [source.line() for source in sources_for("bookworm", etc(tmp_path), "bookworm")]
    signed = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
    assert lines == [
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/ubuntu bookworm-backports main universe",
        f"deb {signed}http://mirror.example/debian bookworm main contrib",
        f"deb {signed}http://mirror.example/debian bookworm-updates main contrib",
        "deb http://mirror.example/debian-security bookworm-security main",
    ]


def test_another_suite_takes_the_hosts_mirrors(tmp_path: Path) -> None:
    suites = {source.suite for source in sources_for("trixie", etc(tmp_path), "bookworm")}
    assert suites == {"trixie", "trixie-updates", "trixie-security", "trixie-backports"}


def test_sources_by_alias_serve_the_hosts_suite_only(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb http://mirror.example/debian stable main\n")
    assert [source.suite for source in sources_for("bookworm", str(tmp_path), "bookworm")] == ["stable"]
    assert sources_for("trixie", str(tmp_path), "bookworm") == []


def test_a_host_without_apt_has_no_sources(tmp_path: Path) -> None:
    assert sources_for("bookworm", str(tmp_path / "none"), "bookworm") == []


def test_the_hosts_codename_comes_from_os_release(tmp_path: Path) -> None:
    (tmp_path / "os-release").write_text('NAME="Ubuntu"\nVERSION_CODENAME="noble"\n')
    assert host_codename(str(tmp_path / "os-release")) == "noble"
    assert host_codename(str(tmp_path / "absent")) == ""
