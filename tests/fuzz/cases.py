"""How many cases a fuzzed test takes, and what one may do: give a right result or a clear error, and soon."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, Phase, settings

# What the command line turns into one line for the user. Anything else is a defect of ours.
CLEAR = (ValueError, OSError, ImportError)
_SECONDS = 120
_FEW = 20

_thorough = settings.get_current_profile_name() == "fuzz"
fuzzed = settings(
    max_examples=settings.default.max_examples if _thorough else _FEW,
    # A run of the suite is to find what it found the last time; `make fuzz` searches.
    derandomize=not _thorough,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


class HangError(Exception):
    """A case that took too long."""


class UnclearError(Exception):
    """An error that does not say which file it is about."""


@contextmanager
def one_case(named: str = "") -> Iterator[None]:
    """Lets a case end with a clear error, and none run for long.

    Args:
        named: What the error has to name.

    Raises:
        HangError: The case took two minutes.
        UnclearError: The error does not name what it has to.
    """

    def stop(*_: object) -> None:
        raise HangError(f"a case took {_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    # Again every second, as Python drops an exception that is raised where it cleans up.
    signal.setitimer(signal.ITIMER_REAL, _SECONDS, 1)
    try:
        yield
    except CLEAR as error:
        if named not in str(error):
            raise UnclearError(f"an error does not name {named}: {error!r}") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
