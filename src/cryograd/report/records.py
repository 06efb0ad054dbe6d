"""What the files of a run have to hold for a report to be made of them; what else they hold is no matter."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from cryograd.config.fields import Symmetries
from cryograd.errors import CryogradError

# Fourier pixels of the largest box, by far.
_LARGEST_RADIUS = 2048.0


class _Record(BaseModel):
    """Values are taken as they are: a text is no number."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)


class Settings(_Record):
    """What is looked at of run.toml."""

    particles: str
    symmetry: Annotated[str, Field(pattern="auto")] | Symmetries = "C1"
    classes: int = Field(1, ge=1, le=1000)
    max_shift: float | None = None


class Row(_Record):
    """A row of log.jsonl."""

    stage: str
    resolution: PositiveFloat
    radius: float = Field(gt=0.0, le=_LARGEST_RADIUS)
    log_evidence: float
    entropy: float
    seconds: dict[str, float]


class Shared(_Record):
    """What half-sets share."""

    start_map: Annotated[str, Field(pattern="^(given|of all particles|own)$")]
    start_radius: float
    start_resolution_angstrom: float
    mask: str
    mask_diameter_angstrom: float
    density_scale: float
    symmetry: str
    symmetry_found: bool
    curves: int
    shells: int
    poses_of_the_file: bool


class FindingRecord(_Record):
    """A finding."""

    key: str
    text: str
    doubts: bool


class Metrics(_Record):
    """What is looked at of metrics.json."""

    n_particles: int
    wall_seconds: float
    device: str
    symmetry: Symmetries | None = None
    findings: list[FindingRecord] = []
    believed: bool = True
    why_not: str | None = None
    resolution_fsc143_angstrom: float | None = None
    resolution_is_bound: bool = False
    max_shift_angstrom: float | None = None
    class_populations: list[float] | None = None
    shared: Shared | None = None


class _Ended(Metrics):
    """What is said of every run that has ended."""

    box_size: int
    pixel_size_angstrom: float
    iterations: int
    max_probability_mean: float

    @model_validator(mode="after")
    def _with_findings(self) -> Self:
        if "findings" not in self.model_fields_set:
            raise ValueError("findings are missing")
        return self


class _EndedStart(_Ended):
    """And of one from random starts."""

    command: Literal["abinitio"]
    resolution_march_angstrom: float


class _Claim(_Record):
    """What a refinement claims of a map."""

    resolution_fsc143_angstrom: float | None
    resolution_is_bound: bool
    believed: bool
    why_not: str | None


class _Class(_Claim):
    """A class of a refinement."""

    share: float


class _EndedHalves(_Claim, _Ended):
    """And of one in half-sets."""

    command: Literal["refine", "reconstruct"]
    limited_by: str
    passes: float
    still_improving: list[str] | None
    classes: list[_Class] = []

    @model_validator(mode="after")
    def _of_all_classes(self) -> "_EndedHalves":
        if len(self.classes) != len(self.class_populations or ()):
            raise ValueError("classes and class_populations have two lengths")
        return self


# metrics.json of a run that has ended, whatever the command.
Ended = Annotated[_EndedStart | _EndedHalves, Field(discriminator="command")]


class _Maps(_Record):
    """How a map compares with the truth."""

    frequencies: list[float] = Field(min_length=2)
    fsc: list[float]
    resolution_fsc05_angstrom: float | None

    @model_validator(mode="after")
    def _of_one_length(self) -> "_Maps":
        if len(self.frequencies) != len(self.fsc):
            raise ValueError("frequencies and fsc have two lengths")
        return self


class _Poses(_Record):
    """How poses compare with the truth."""

    median_angle_degrees: float
    median_shift_angstrom: float


class Comparison(_Record):
    """comparison.json."""

    maps: _Maps
    poses: _Poses


class Anisotropy(_Record):
    """What is looked at of anisotropy.json."""

    conical_fsc_quartiles: list[list[float]] = Field(min_length=5, max_length=5)

    @model_validator(mode="after")
    def _of_one_length(self) -> "Anisotropy":
        if len({len(curve) for curve in self.conical_fsc_quartiles}) != 1:
            raise ValueError("the curves of conical_fsc_quartiles have several lengths")
        return self


def parsed(path: Path, parse: Any, kind: Any) -> Any:
    """Contents of a text file of a run, as they stand there.

    Parameters
    ----------
    path
        The file.
    parse
        Makes plain data of its text.
    kind
        What these have to be: a record of this module, or a list of them.

    Raises
    ------
    CryogradError
        The file cannot be read, or holds something else.
    """
    # Whoever opened a pipe would wait for its other end.
    if path.exists() and not path.is_file():
        raise CryogradError("the file is a folder or a pipe", path, "restore the file")
    try:
        found = parse(path.read_text(encoding="utf-8"))
        TypeAdapter(kind).validate_python(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        what = f"{place}: {first['msg']}" if place else first["msg"]
        raise CryogradError(f"the file is broken ({what})", path, "restore the file") from None
    except OSError as error:
        raise CryogradError(f"the file cannot be read ({error.strerror})", path, "restore the file") from None
    # The parsers' errors are ValueErrors; what is nested too deeply ends them otherwise.
    except (ValueError, RecursionError) as error:
        raise CryogradError(f"the file is broken ({error})", path, "restore the file") from None
    return found
