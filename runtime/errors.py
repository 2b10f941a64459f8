"""The closed set of failures that the engine reports; callers decide by class and `retryable`, never by text.

A message reads `cannot <verb> <object> "<name>": <cause>`; `hint`, when known, says what to do about it.
"""


class EngineError(Exception):
    """Root of every failure that the engine raises on purpose."""

    retryable = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class NotFound(EngineError):
    """The named container, image, network, volume or blob does not exist."""


class Conflict(EngineError):
    """The object exists already, is in use, or is in a state that forbids the operation."""


class InvalidSpec(EngineError):
    """The request itself can never work: unknown user, bad subnet, missing bind source, bad Dockerfile."""


class PortBusy(EngineError):
    """A published port is held by another program or another root."""

    retryable = True


class SubnetCollision(EngineError):
    """A wanted subnet overlaps a route of the host or another network."""


class StartFailed(EngineError):
    """The container could not be brought to exec: program missing, not executable, mount refused.

    `exit_code` follows docker: 125 set-up failed, 126 not executable, 127 not found.
    """

    def __init__(self, message: str, hint: str = "", exit_code: int = 125) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


class BuildFailed(EngineError):
    """A build or bootstrap step failed; the message ends with the last lines of its output."""


class CorruptContent(EngineError):
    """Bytes do not match their digest, or an archive is malformed or tries to escape."""


class DiskFull(EngineError):
    """ENOSPC or EDQUOT while writing below the state root."""

    retryable = True


class Unsupported(EngineError):
    """The kernel, the host or the present privileges lack what is needed (named in the message)."""


class Unavailable(EngineError):
    """The supervisor, a lock or a remote source did not answer in time."""

    retryable = True
