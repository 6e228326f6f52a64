"""Effects: what an operation asks the engine to do next, as values.

- An operation's id and a step name an effect; no machine asks for the same step twice.
- ``durable_first``: it survives the process, so the events before it must be durable.
- Its outcome is an event, or a failure that ``decide`` turns into one.
"""

from __future__ import annotations

from typing import ClassVar

import attrs


@attrs.frozen(kw_only=True)
class Effect:
    durable_first: ClassVar[bool] = False
    operation_id: str
    kernel_id: str

    @property
    def step(self) -> str:
        """The step's name as errors and journals show it."""
        return type(self).__name__


@attrs.frozen(kw_only=True)
class BeginOperation(Effect):
    """Nothing to do yet: the request became durable, the work may begin."""

    durable_first = True


@attrs.frozen(kw_only=True)
class PrepareTarget(Effect):
    """Load the code and reserve memory on ``device``."""

    device: str


@attrs.frozen(kw_only=True)
class QuiesceKernel(Effect):
    """Make the grid return; at ``at_sequence`` (the first message left over) if it is not 0."""

    at_sequence: int = 0


@attrs.frozen(kw_only=True)
class DigestSource(Effect):
    """Digest the quiesced kernel's regions where they lie."""


@attrs.frozen(kw_only=True)
class TransferState(Effect):
    """Copy all regions from the source to the target."""


@attrs.frozen(kw_only=True)
class RestoreTarget(Effect):
    """Digest the target's own memory and launch its grid behind a closed gate."""


@attrs.frozen(kw_only=True)
class OpenGate(Effect):
    """Let messages flow to the target."""

    durable_first = True


@attrs.frozen(kw_only=True)
class RetireSource(Effect):
    """Give the source's memory back after the target's first answer."""

    durable_first = True


@attrs.frozen(kw_only=True)
class ResumeSource(Effect):
    """Discard the target and let the source work as before."""


@attrs.frozen(kw_only=True)
class CompileCode(Effect):
    """Compile the new code for the kernel's device while the old code works."""

    spec_digest: str


@attrs.frozen(kw_only=True)
class ValidateCode(Effect):
    """Load the new code, check its parameters, reserve its memory."""

    spec_digest: str
    convert: str


@attrs.frozen(kw_only=True)
class SwapCode(Effect):
    """Fill the new regions from the old ones: copy what is equal, convert the rest."""

    convert: str


@attrs.frozen(kw_only=True)
class RestoreCode(Effect):
    """Launch the new grid with its outputs held."""


@attrs.frozen(kw_only=True)
class WatchProbation(Effect):
    """Wait until the new code has proved itself, then save its first checkpoint."""

    messages: int
    timeout_ns: int


@attrs.frozen(kw_only=True)
class ResumeOldCode(Effect):
    """Discard the new grid and let the old one work on its own untouched regions."""


@attrs.frozen(kw_only=True)
class HoldKernel(Effect):
    """Keep the grid resident at a message boundary."""


@attrs.frozen(kw_only=True)
class CopyState(Effect):
    """Copy the held state, then let the kernel work again."""


@attrs.frozen(kw_only=True)
class SaveCheckpoint(Effect):
    """Write the copied state as an immutable file."""

    durable_first = True
    checkpoint: str


@attrs.frozen(kw_only=True)
class OperationInput:
    """What comes to a machine from outside: not an event yet."""


@attrs.frozen(kw_only=True)
class StepFailure(OperationInput):
    """An effect raised, or its deadline passed."""

    step: str
    reason: str
    cancelled: bool = False


@attrs.frozen(kw_only=True)
class Restarted(OperationInput):
    """A new engine found the operation unfinished in the journal."""
