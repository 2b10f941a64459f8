"""Annotated field types: how a value may be written, what it becomes, and what the JSON Schema says about it."""

# ruff: noqa: TRY004 - pydantic turns ValueError, and only that, into a problem of the value

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError, core_schema

from schemas import mounts, ports, values

EXTENSIONS: Any = {"patternProperties": {"^x-": {}}}


class Strict(BaseModel):
    """A mapping with a closed set of keys.

    With a validation context of {"unknown": list}, unknown keys are appended to it as (class, key, id of the mapping)
    and set aside, so that one run finds every problem; without one they are refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=EXTENSIONS)

    later: ClassVar[Mapping[str, str]] = {}
    """Known attributes that are refused: why, or "" when the answer is only that they are not supported yet."""

    @model_validator(mode="before")
    @classmethod
    def _set_unknown_keys_aside(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, dict):
            return data
        # an attribute without a value is one that is not given
        given = {key: value for key, value in data.items() if value is not None} if None in data.values() else data
        known = cls.attribute_names()
        extra = [key for key in data if key not in known]
        if not extra:
            return given
        if not info.context:
            return {key: value for key, value in given.items() if key in known or not key.startswith("x-")}
        info.context["unknown"].extend(
            (cls, key, id(data)) for key in extra if not key.startswith("x-") or key == "x-holdfast"
        )
        return {key: value for key, value in given.items() if key in known}

    @classmethod
    def attribute_names(cls) -> frozenset[str]:
        names = cls.__dict__.get("_attribute_names_cache")
        if names is None:
            names = frozenset(field.alias or name for name, field in cls.model_fields.items())
            type.__setattr__(cls, "_attribute_names_cache", names)
        return names


class Parsed:
    """A leaf that one function reads from its written form."""

    def __init__(self, parse: Callable[[Any], Any], schema: dict[str, Any]) -> None:
        self.parse = parse
        self.schema = schema

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return dict(self.schema)


class Short:
    """A long form that also has a short one, which `convert` turns into the long one."""

    def __init__(self, convert: Callable[[Any], Any], schema: dict[str, Any]) -> None:
        self.convert = convert
        self.schema = schema

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self.convert, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [dict(self.schema), handler(schema)]}


def refuse(found: list[tuple[Any, str]]) -> PydanticCustomError:
    """Several problems inside one value: (key or index, message) each."""
    return PydanticCustomError("several", "{text}", {"found": found, "text": "; ".join(text for _, text in found)})


def type_name(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f'the string "{value}"' if len(value) <= 40 else "a string"
    return "a list" if isinstance(value, list) else "a mapping"


# ---- scalars ----------------------------------------------------------------------------------------------------

_TRUE, _FALSE = ("true", "yes", "y", "on"), ("false", "no", "n", "off")


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in (*_TRUE, *_FALSE):
        return value.lower() in _TRUE
    raise ValueError(f"must be true or false, not {type_name(value)}")


def _to_int(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        if not isinstance(value, str) or len(value) > 20:
            raise ValueError(f"must be an integer, not {type_name(value)}")
        try:
            number = int(value, 10)
        except ValueError:
            raise ValueError(f"must be an integer, not {type_name(value)}") from None
    if abs(number) >= 1 << 63:
        raise ValueError("is too large a number")
    return number


def _at_least(minimum: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        number = _to_int(value)
        if number < minimum:
            raise ValueError(f"must be at least {minimum}, not {number}")
        return number

    return parse


def _to_scalar_text(value: Any) -> str:
    if isinstance(value, dict | list) or value is None:
        raise ValueError(f"must be a string, a number or a boolean, not {type_name(value)}")
    return values.scalar_text(value)


_INTEGER = {"type": ["integer", "string"]}
Bool = Annotated[bool, Parsed(_to_bool, {"type": ["boolean", "string"]})]
Int = Annotated[int, Parsed(_to_int, _INTEGER)]
Natural = Annotated[int, Parsed(_at_least(0), _INTEGER)]
Positive = Annotated[int, Parsed(_at_least(1), _INTEGER)]
Limit = Annotated[int, Parsed(_at_least(-1), _INTEGER)]
"""A count; -1 means unlimited."""
Scalar = Annotated[str, Parsed(_to_scalar_text, {"type": ["string", "number", "boolean"]})]
Duration = Annotated[
    float,
    Parsed(
        values.parse_duration, {"type": ["string", "integer"], "description": "a duration such as 10s, 1m30s or 500ms"}
    ),
]
Size = Annotated[
    int,
    Parsed(values.parse_size, {"type": ["string", "number"], "description": "bytes, or a size such as 64m or 1g"}),
]
Cpus = Annotated[float, Parsed(values.parse_cpus, {"type": ["number", "string"], "description": "a number of CPUs"})]
Mode = Annotated[
    int, Parsed(values.parse_mode, {"type": ["integer", "string"], "description": "permission bits, 0440"})
]
Signal = Annotated[
    str, Parsed(values.parse_signal, {"type": ["string", "integer"], "description": "a signal such as SIGTERM"})
]


def _words(value: Any) -> list[str]:
    if isinstance(value, list):
        found = [
            (index, f"must be a string, not {type_name(item)}: put it in quotes")
            for index, item in enumerate(value)
            if not isinstance(item, str)
        ]
        if found:
            raise refuse(found)
    return values.parse_command(value)


Command = Annotated[
    list[str], Parsed(_words, {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
]


# ---- lists and mappings -----------------------------------------------------------------------------------------


def _one_to_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _each(parse: Callable[[Any], Any], one: bool) -> Callable[[Any], list[Any]]:
    """Read every item of a list with `parse`, reporting all that fail; `one`: a single string stands for a list."""

    def parse_all(value: Any) -> list[Any]:
        if one and isinstance(value, str):
            value = [value]
        if not isinstance(value, list):
            raise ValueError(f"must be a list{' or a string' if one else ''}, not {type_name(value)}")
        parsed, found = [], []
        for index, item in enumerate(value):
            try:
                parsed.append(parse(item))
            except ValueError as error:
                found.append((index, str(error)))
        if found:
            raise refuse(found)
        return parsed

    return parse_all


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {type_name(value)}: put it in quotes")
    return value


def _name_or_number(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _string(value)


def _address(value: Any) -> str:
    return values.parse_host_ip_any(_string(value))


def _tmpfs(value: Any) -> mounts.MountEntry:
    return mounts.parse_tmpfs(_string(value))


def _security_option(value: Any) -> str:
    """`key:value` for no-new-privileges, `key=value` for the rest."""
    text = _string(value).strip()
    key, separator, setting = text.partition("=") if "=" in text else text.partition(":")
    if key == "no-new-privileges":
        if separator and setting.lower() not in ("true", "false"):
            raise ValueError(f'no-new-privileges must be true or false, not "{setting}"')
        return f"no-new-privileges:{setting.lower() or 'true'}"
    if key == "seccomp" and setting:
        return f"seccomp={setting}"
    if (key, setting) in (("apparmor", "unconfined"), ("label", "disable")):
        return f"{key}={setting}"
    if key in ("apparmor", "label", "systempaths", "credentialspec"):
        raise ValueError(f'security option "{text}" is not supported yet')
    raise ValueError(
        f'unknown security option "{text}": no-new-privileges:true|false, seccomp=unconfined, seccomp=FILE, '
        "apparmor=unconfined or label=disable"
    )


def _list_schema(one: bool, *types: str) -> dict[str, Any]:
    array = {"type": "array", "items": {"type": list(types) if len(types) > 1 else types[0]}}
    return {"anyOf": [{"type": "string"}, array]} if one else array


Strings = Annotated[list[str], Parsed(_each(_string, one=False), _list_schema(False, "string"))]
StringOrStrings = Annotated[list[str], Parsed(_each(_string, one=True), _list_schema(True, "string"))]
Groups = Annotated[list[str], Parsed(_each(_name_or_number, one=False), _list_schema(False, "string", "integer"))]
Addresses = Annotated[list[str], Parsed(_each(_address, one=True), _list_schema(True, "string"))]
Tmpfs = Annotated[list[mounts.MountEntry], Parsed(_each(_tmpfs, one=True), _list_schema(True, "string"))]
Expose = Annotated[list[str], Parsed(_each(ports.parse_expose, one=False), _list_schema(False, "string", "integer"))]
Capabilities = Annotated[
    list[str],
    Parsed(_each(lambda item: values.parse_capability(_string(item)), one=False), _list_schema(False, "string")),
]
SecurityOptions = Annotated[list[str], Parsed(_each(_security_option, one=False), _list_schema(False, "string"))]
Subnet = Annotated[str, Parsed(lambda value: values.parse_subnet(_string(value)), {"type": "string"})]
Address = Annotated[str, Parsed(_address, {"type": "string"})]
Mac = Annotated[str, Parsed(lambda value: values.parse_mac(_string(value)), {"type": "string"})]
HostName = Annotated[str, Parsed(lambda value: values.check_hostname(_string(value)), {"type": "string"})]
ExtraHosts = Annotated[
    dict[str, str],
    Parsed(
        values.parse_extra_hosts,
        {
            "anyOf": [
                {"type": "array", "items": {"type": "string"}},
                {"type": "object", "additionalProperties": {"type": "string"}},
            ]
        },
    ),
]


def _pairs(
    what: str, *, null: str | None, check: Callable[[str], str | None] | None = None
) -> Callable[[Any], dict[str, str | None]]:
    """A mapping, or a list of KEY=VALUE; a key without a value becomes `null`."""

    def parse(value: Any) -> dict[str, str | None]:
        pairs: list[tuple[Any, Any, Any]] = []
        found: list[tuple[Any, str]] = []
        if isinstance(value, dict):
            pairs = [(key, key, item) for key, item in value.items()]
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, str):
                    key, equals, text = item.partition("=")
                    pairs.append((index, key, text if equals else None))
                else:
                    found.append((index, f"must be a string such as KEY=VALUE, not {type_name(item)}"))
        else:
            raise ValueError(f"must be a mapping or a list of KEY=VALUE, not {type_name(value)}")
        result: dict[str, str | None] = {}
        for at, key, item in pairs:
            if isinstance(item, dict | list):
                found.append((at, f"must be a string, a number, a boolean or empty, not {type_name(item)}"))
            elif not key:
                found.append((at, f"a {what} needs a name"))
            elif key != key.strip():
                found.append((at, f'{what} "{key}" has a space around its name'))
            elif (complaint := check(key) if check else None) is not None:
                found.append((at, complaint))
            else:
                result[key] = null if item is None else values.scalar_text(item)
        if found:
            raise refuse(found)
        return result

    return parse


def _check_variable(key: str) -> str | None:
    return f'variable "{key}" has "=" in its name' if "=" in key else None


def _check_label(key: str) -> str | None:
    return f'label "{key}": names that begin with "holdfast." are reserved' if key.startswith("holdfast.") else None


def _parse_sysctls(value: Any) -> dict[str, str]:
    found, result = [], {}
    for key, text in _pairs("kernel setting", null=None)(value).items():
        try:
            if text is None:
                raise ValueError(f'kernel setting "{key}" has no value')
            result[values.parse_sysctl_name(key)] = text
        except ValueError as error:
            found.append((key, str(error)))
    if found:
        raise refuse(found)
    return result


_PAIRS = {
    "anyOf": [
        {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}},
        {"type": "array", "items": {"type": "string"}},
    ]
}
Environment = Annotated[dict[str, str | None], Parsed(_pairs("variable", null=None, check=_check_variable), _PAIRS)]
Labels = Annotated[dict[str, str], Parsed(_pairs("label", null="", check=_check_label), _PAIRS)]
Arguments = Annotated[dict[str, str | None], Parsed(_pairs("build argument", null=None), _PAIRS)]
Sysctls = Annotated[dict[str, str], Parsed(_parse_sysctls, _PAIRS)]
Options = Annotated[dict[str, str], Parsed(_pairs("option", null=""), _PAIRS)]


def names_to_mapping(value: Any) -> Any:
    """`[a, b]` as `{a: {}, b: {}}`, for references that also have a long form."""
    if not isinstance(value, list):
        return value
    found: list[tuple[Any, str]] = []
    result: dict[str, Any] = {}
    for index, item in enumerate(value):
        if not isinstance(item, str):
            found.append((index, f"must be a name, not {type_name(item)}"))
        elif item in result:
            found.append((index, f'"{item}" is named twice'))
        else:
            result[item] = {}
    if found:
        raise refuse(found)
    return result


NAMES: dict[str, Any] = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
