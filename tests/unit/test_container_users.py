"""Users and groups are the image's own."""

import pytest

from runtime.container.users import resolve_user
from runtime.errors import InvalidSpec

PASSWD = "root:x:0:0:root:/root:/bin/sh\nredis:x:101:102::/var/lib/redis:/usr/sbin/nologin\n42:x:7:8::/seven:/bin/sh\n"
GROUP = "root:x:0:\nredis:x:102:\nssl:x:105:redis,www\nlog:x:106:redis\n"


def read(path: str) -> str:
    return {"/etc/passwd": PASSWD, "/etc/group": GROUP}.get(path, "")


def test_a_name_takes_its_group_home_and_supplementary_groups_from_the_image() -> None:
    assert resolve_user("redis", (), read) == (101, 102, (102, 105, 106), "/var/lib/redis")


def test_an_explicit_group_drops_the_supplementary_ones() -> None:
    assert resolve_user("redis:ssl", (), read) == (101, 105, (105,), "/var/lib/redis")


def test_an_unknown_number_is_used_as_it_is() -> None:
    assert resolve_user("4711:4712", (), read) == (4711, 4712, (4712,), "/")


def test_a_name_made_of_digits_wins_over_the_number() -> None:
    assert resolve_user("42", (), read).uid == 7


def test_no_user_is_root_even_without_a_passwd_file() -> None:
    assert resolve_user("", (), lambda _: "") == (0, 0, (0,), "/")


def test_added_groups_may_be_names_or_numbers() -> None:
    assert resolve_user("root", ("ssl", "999"), read).groups == (0, 105, 999)


@pytest.mark.parametrize("user", ["nobody-here", "redis:nogroup"])
def test_an_unknown_name_is_refused(user: str) -> None:
    with pytest.raises(InvalidSpec, match="no such name"):
        resolve_user(user, (), read)


def test_a_damaged_passwd_line_is_passed_over() -> None:
    assert resolve_user("a", (), lambda p: "a:x\na:x:b:c:::\na:x:5:6::/h:/s\n" if "passwd" in p else "").uid == 5
