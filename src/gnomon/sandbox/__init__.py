"""Running untrusted programs: see :class:`Sandbox`."""

from gnomon.sandbox.backends import Limits, SandboxError, choose, probe
from gnomon.sandbox.run import BadTestsError, CallTest, InputTest, Result, Sandbox

__all__ = [
    "BadTestsError",
    "CallTest",
    "InputTest",
    "Limits",
    "Result",
    "Sandbox",
    "SandboxError",
    "choose",
    "probe",
]
