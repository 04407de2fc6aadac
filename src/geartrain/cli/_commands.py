"""The commands and their options. Each is a record; `parse` fills one in, `execute` does the work."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Protocol, Union

import tyro
from tyro.conf import Positional, arg, subcommand

from geartrain.cli._usage import UsageError, nearest, unboxed

Target = Annotated[
    str,
    arg(
        metavar="TARGET",
        help="A built-in run (digits, mnist, breast-cancer, diabetes, text), FILE.py:FUNCTION or module:function.",
    ),
]
Seed = Annotated[int, arg(help="Seed of the run and of everything random in measuring it.")]
Device = Annotated[str, arg(help="cpu, cuda, cuda:N or mps.")]
Json = Annotated[bool, arg(help="Print the result as JSON, and nothing else, on standard output.")]


class Command(Protocol):
    """A command with its options."""

    def execute(self) -> int:
        """Do it and return the exit code."""
        ...


@dataclass(frozen=True)
class Diagnose:
    """Say why a run behaves as it does, what would help (tried on forks of that very run), and how sure that is."""

    target: Positional[Target]
    budget: Annotated[str, arg(help="Time it may take: 60s, 2min, 500ms.")] = "60s"
    out: Annotated[Path, arg(help="Folder for the report.")] = Path("geartrain-reports")
    json: Json = False
    seed: Seed = 0
    device: Device = "cpu"

    def execute(self) -> int:
        """Diagnose, write the report, print the summary."""
        from geartrain.cli import _diagnose

        return _diagnose.execute(self)


@dataclass(frozen=True)
class Measure:
    """Take one measurement of a run: value ± error, unit, status and cost."""

    name: Positional[
        Annotated[str, arg(metavar="NAME", help="An instrument; `geartrain instruments` lists them.")]
    ]
    target: Positional[Target]
    steps: Annotated[int, arg(help="Train that many steps first.")] = 0
    budget: Annotated[str | None, arg(help="Time it may take (5s), or a number of products (100).")] = None
    on: Annotated[Literal["train", "validation"], arg(help="Data to measure on.")] = "train"
    probe: Annotated[int, arg(help="Examples to measure on; 0 for all of them.")] = 512
    other: Annotated[
        str | None,
        arg(
            metavar="TARGET",
            help="Compare with this run, trained as long (default: the state before training).",
        ),
    ] = None
    set: Annotated[
        tuple[str, ...],
        arg(metavar="OPTION=VALUE", help="Options of the instrument, such as k=20 operator=ggn."),
    ] = ()
    json: Json = False
    seed: Seed = 0
    device: Device = "cpu"

    def execute(self) -> int:
        """Measure and print."""
        from geartrain.cli import _measure

        return _measure.execute(self)


@dataclass(frozen=True)
class Llc:
    """Local learning coefficient of a run where it stands, with a page on the sampler's health."""

    target: Positional[Target]
    steps: Annotated[int, arg(help="Train that many steps first.")] = 0
    budget: Annotated[str | None, arg(help="Time that sampling may take: 60s, 2min.")] = None
    on: Annotated[Literal["train", "validation"], arg(help="Data whose loss is sampled.")] = "train"
    probe: Annotated[int, arg(help="Examples to sample the loss on; 0 for all of them.")] = 0
    set: Annotated[
        tuple[str, ...],
        arg(metavar="OPTION=VALUE", help="Options, such as chains=16 draws=500 localisation=10."),
    ] = ()
    out: Annotated[Path, arg(help="Folder for the page.")] = Path("geartrain-reports")
    json: Json = False
    seed: Seed = 0
    device: Device = "cpu"

    def execute(self) -> int:
        """Sample, write the page, print."""
        from geartrain.cli import _llc

        return _llc.execute(self)


@dataclass(frozen=True)
class Instruments:
    """List the instruments, each with one line."""

    json: Json = False

    def execute(self) -> int:
        """Print the list."""
        from geartrain.cli import _catalogue

        return _catalogue.instruments(json=self.json)


@dataclass(frozen=True)
class Mechanisms:
    """List the mechanisms that a diagnosis weighs, each with one line."""

    json: Json = False

    def execute(self) -> int:
        """Print the list."""
        from geartrain.cli import _catalogue

        return _catalogue.mechanisms(json=self.json)


@dataclass(frozen=True)
class Sweep:
    """Say how far a sweep is, go on with it, or try again what failed; the folder is all it needs."""

    action: Positional[
        Annotated[
            Literal["status", "resume", "retry"],
            arg(
                metavar="ACTION",
                help="status, resume (compute what is missing) or retry (the failed units too).",
            ),
        ]
    ]
    folder: Positional[Annotated[Path, arg(metavar="FOLDER", help="Folder of the sweep.")]]
    workers: Annotated[int | None, arg(help="Processes, jobs or tasks at once (default: as before).")] = None
    executor: Annotated[
        Literal["local", "slurm", "ray"] | None, arg(help="Where to compute (default: as before).")
    ] = None
    json: Json = False

    def execute(self) -> int:
        """Do it and print how far the sweep is."""
        from geartrain.cli import _sweep

        return _sweep.execute(self)


ToyName = Annotated[str, arg(metavar="NAME", help="A toy; `geartrain zoo list` lists them.")]
Parameters = Annotated[
    tuple[str, ...], arg(metavar="PARAMETER=VALUE", help="Parameters of the toy, such as depth=3 seed=1.")
]


@dataclass(frozen=True)
class ZooList:
    """List the toys by family, each with one line."""

    json: Json = False


@dataclass(frozen=True)
class ZooShow:
    """Explain one toy: the model, its parameters, and everything known exactly about it."""

    name: Positional[ToyName]
    set: Parameters = ()
    json: Json = False


@dataclass(frozen=True)
class ZooTrain:
    """Train a toy to the end of its run and print the losses."""

    name: Positional[ToyName]
    set: Parameters = ()
    json: Json = False


@dataclass(frozen=True)
class ZooPlot:
    """Draw a toy's picture into a file (needs the extra `plot`)."""

    name: Positional[ToyName]
    set: Parameters = ()
    out: Annotated[Path | None, arg(help="File: .svg, .png or .pdf (default: NAME.svg here).")] = None


@dataclass(frozen=True)
class ZooCheck:
    """Measure what theory knows: every instrument on every toy; the exit code is 1 if any disagrees."""

    names: Annotated[
        Positional[tuple[str, ...]], arg(metavar="NAME", help="Toys; all of them if none is named.")
    ] = ()
    quick: Annotated[bool, arg(help="Each instrument once only, and no trials: the reduced form for CI.")] = (
        False
    )
    budget: Annotated[str | None, arg(help="Time it may take: 60s, 5min (default: what it needs).")] = None
    resume: Annotated[
        bool, arg(help="Keep what an earlier check in the same folder found to agree; measure the rest.")
    ] = False
    out: Annotated[Path, arg(help="Folder for certificate.html and certificate.json.")] = Path(
        "geartrain-reports"
    )
    json: Json = False
    seed: Annotated[int, arg(help="Seed of everything random in measuring.")] = 0


_ZOO = {"list": ZooList, "show": ZooShow, "train": ZooTrain, "plot": ZooPlot, "check": ZooCheck}


@dataclass(frozen=True)
class Zoo:
    """Toy models whose truth is known: list, show, train, plot, and check the instruments against them."""

    action: (
        Annotated[ZooList, subcommand("list")]
        | Annotated[ZooShow, subcommand("show")]
        | Annotated[ZooTrain, subcommand("train")]
        | Annotated[ZooPlot, subcommand("plot")]
        | Annotated[ZooCheck, subcommand("check")]
    )

    def execute(self) -> int:
        """Do it."""
        from geartrain.cli import _zoo

        return _zoo.execute(self.action)


ClaimName = Annotated[str, arg(metavar="NAME", help="A claim; `geartrain claims list` lists them.")]


@dataclass(frozen=True)
class ClaimsList:
    """List the claims by theme, each with its statement and what a full run takes."""

    json: Json = False


@dataclass(frozen=True)
class ClaimsShow:
    """Explain one claim: statement, source, protocol, control, and the rule that decides."""

    name: Positional[ClaimName]
    json: Json = False


@dataclass(frozen=True)
class ClaimsRun:
    """Run claims, or what is left of them, and print the verdicts."""

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME", help="Claims to run.")] = ()
    all: Annotated[bool, arg(help="All of them.")] = False
    quick: Annotated[bool, arg(help="A quarter of the seeds and smaller settings: trends, no verdicts.")] = (
        False
    )
    long: Annotated[bool, arg(help="Beyond the full protocol, where a claim has more.")] = False
    seeds: Annotated[int | None, arg(help="Number of seeds (default: the protocol's).")] = None
    budget: Annotated[str | None, arg(help="Time for each claim after which nothing further is begun.")] = (
        None
    )
    workers: Annotated[int | None, arg(help="Processes (default: one for each processor).")] = None
    out: Annotated[
        Path | None,
        arg(
            help="Folder of the record; of several claims, the folder that holds theirs (default: geartrain-claims)."
        ),
    ] = None
    json: Json = False


@dataclass(frozen=True)
class ClaimsReport:
    """Write the evidence book: a page for each claim that was run, and an index."""

    records: Annotated[Path, arg(help="Folder with the records of claims, at any depth.")] = Path(
        "geartrain-claims"
    )
    out: Annotated[Path, arg(help="Folder for the pages.")] = Path("geartrain-reports/claims")


_CLAIMS = {"list": ClaimsList, "show": ClaimsShow, "run": ClaimsRun, "report": ClaimsReport}


@dataclass(frozen=True)
class Claims:
    """Statements about learning as preregistered experiments: list, show, run them, and write the evidence book."""

    action: (
        Annotated[ClaimsList, subcommand("list")]
        | Annotated[ClaimsShow, subcommand("show")]
        | Annotated[ClaimsRun, subcommand("run")]
        | Annotated[ClaimsReport, subcommand("report")]
    )

    def execute(self) -> int:
        """Do it."""
        from geartrain.cli import _claims

        return _claims.execute(self.action)


@dataclass(frozen=True)
class Demo:
    """Diagnose a healthy run on handwritten digits, then its broken twin, and say where the reports are."""

    budget: Annotated[str, arg(help="Time that both diagnoses together may take.")] = "50s"
    out: Annotated[Path, arg(help="Folder for the reports.")] = Path("geartrain-reports")
    seed: Seed = 0

    def execute(self) -> int:
        """Run the demonstration."""
        from geartrain.cli import _demo

        return _demo.execute(self)


@dataclass(frozen=True)
class Completion:
    """Print the completion script for a shell; `source` it, or put it where the shell looks for such scripts."""

    shell: Positional[Literal["bash", "zsh", "fish"]]

    def execute(self) -> int:
        """Print the script."""
        _parse(["--tyro-print-completion", self.shell])
        return 0


COMMANDS = {
    "diagnose": Diagnose,
    "measure": Measure,
    "llc": Llc,
    "instruments": Instruments,
    "mechanisms": Mechanisms,
    "sweep": Sweep,
    "zoo": Zoo,
    "claims": Claims,
    "demo": Demo,
    "completion": Completion,
}
POSITIONAL = {"action", "folder", "name", "names", "shell", "target"}
_DESCRIPTION = (
    "geartrain measures neural-network training and says why a run behaves as it does. "
    "Start with: geartrain diagnose digits"
)


def parse(argv: list[str]) -> Command:
    """The command that was typed.

    Raises:
        UsageError: There is no such command or option, or what it needs was not given.
        SystemExit: Help or the version was asked for (code 0).
    """
    if argv[:1] == ["--version"]:
        _version()
    command = argv[0] if argv else "--help"
    if not command.startswith("-") and command not in COMMANDS:
        raise UsageError(
            f"There is no command {command!r}. {nearest(command, COMMANDS)} See geartrain --help."
        )
    if command in COMMANDS:
        _check_options(command, argv[1:], COMMANDS[command])
    return _parse(argv or ["--help"])


def _check_options(command: str, words: list[str], kind: Any) -> None:
    inner = {Zoo: _ZOO, Claims: _CLAIMS}.get(kind)
    if inner is not None and words and not words[0].startswith("-"):
        if words[0] not in inner:
            raise UsageError(
                f"There is no command '{command} {words[0]}'. {nearest(words[0], inner)} "
                f"See geartrain {command} --help."
            )
        return _check_options(f"{command} {words[0]}", words[1:], inner[words[0]])
    options = [*(f"--{f.name}" for f in fields(kind) if f.name not in POSITIONAL), "--help"]
    for word in (w.partition("=")[0] for w in words):
        if word.startswith("--") and word not in options:
            raise UsageError(
                f"geartrain {command} has no option {word!r}. {nearest(word, options)} See geartrain {command} --help."
            )


def _parse(argv: list[str]) -> Command:
    union: Any = Union[tuple(Annotated[kind, subcommand(name)] for name, kind in COMMANDS.items())]  # noqa: UP007 - built
    # Flags come in one form only: --json, without a --no-json that nobody needs.
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(union, prog="geartrain", description=_DESCRIPTION, args=argv, config=config)
    except SystemExit as stop:
        if not stop.code:
            raise
        place = " ".join(["geartrain", *argv[:1]]) if argv[0] in COMMANDS else "geartrain"
        raise UsageError(f"{unboxed(said.getvalue())} See {place} --help.") from None


def _version() -> NoReturn:
    from geartrain import __version__

    sys.stdout.write(f"geartrain {__version__}\n")
    raise SystemExit(0)
