"""Running programs that nobody trusts: see :class:`Sandbox`."""

from gnomon.rewards.sandbox.backends import SandboxError, choose, probe
from gnomon.rewards.sandbox.limits import Limits
from gnomon.rewards.sandbox.run import CallTest, InputTest, Result, Sandbox

__all__ = [
    "CallTest",
    "InputTest",
    "Limits",
    "Result",
    "Sandbox",
    "SandboxError",
    "choose",
    "probe",
]
