"""Values behave as frozen dataclasses do."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from runtime.value import value


@value
class Point:
    """Where."""

    x: int
    y: int = 2
    tags: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.x + self.y


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    """The same by the standard library: what `Point` is compared with."""

    x: int
    y: int = 2
    tags: dict[str, str] = dataclasses.field(default_factory=dict)


def test_it_is_made_shown_and_replaced_as_a_dataclass_is() -> None:
    for kind in (Point, Model):
        one = kind(1, tags={"a": "b"})
        assert (one.x, one.y, one.tags) == (1, 2, {"a": "b"})
        assert dataclasses.asdict(one) == {"x": 1, "y": 2, "tags": {"a": "b"}}
        assert dataclasses.replace(one, y=5) == kind(1, 5, {"a": "b"})
        assert [field.name for field in dataclasses.fields(kind)] == ["x", "y", "tags"]
        assert repr(one) == f"{kind.__name__}(x=1, y=2, tags={{'a': 'b'}})"
        assert one != (1, 2, {"a": "b"})
        assert not hasattr(one, "__dict__")


def test_methods_and_properties_stay() -> None:
    assert Point(1).total == 3 and Point.__doc__ == "Where."


def test_each_instance_has_a_default_of_its_own() -> None:
    assert Point(1).tags is not Point(1).tags


def test_equal_values_hash_alike() -> None:
    @value
    class Pair:
        a: int
        b: str = ""

    assert len({Pair(1), Pair(1, ""), Pair(2)}) == 2


@pytest.mark.parametrize(("arguments", "named"), [((), {}), ((1, 2, {}, 4), {}), ((1,), {"x": 2}), ((1,), {"z": 3})])
def test_wrong_arguments_are_refused_as_by_a_dataclass(arguments: tuple[object, ...], named: dict[str, object]) -> None:
    for kind in (Point, Model):
        with pytest.raises(TypeError):
            kind(*arguments, **named)  # type: ignore[arg-type]


def test_it_cannot_be_changed() -> None:
    for kind in (Point, Model):
        with pytest.raises(dataclasses.FrozenInstanceError):
            kind(1).x = 2  # type: ignore[misc]
        with pytest.raises(dataclasses.FrozenInstanceError):
            del kind(1).x


def test_it_survives_copy_and_pickle() -> None:
    one = Point(1, 2, {"a": "b"})
    assert copy.deepcopy(one) == one and pickle.loads(pickle.dumps(one)) == one
