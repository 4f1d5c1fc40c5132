"""The one error of this room."""


class ServerError(RuntimeError):
    """A local server cannot be started, stopped or found; one sentence that names the remedy."""
