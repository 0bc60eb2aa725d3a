"""``slm``: the command line. It parses, calls a function of commands/, and turns a user's mistake into one line.

Nothing heavy is imported here, so that ``slm --help`` answers at once.
"""

from __future__ import annotations

import argparse
import keyword
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any, NoReturn

from flows.presets import DEVICE_SETTINGS, value_of
from tasks.engine.interruption import Interruptions
from tasks.engine.paths import keep_private
from tasks.running.output import Output, OutputLost

USER_ERROR = 2
INTERRUPTED = 130
DEFAULT_MODEL = "the newest champion that runs of this artifacts folder registered"
OLD_NAMES = {"spread": "seed-variance"}  # until the next release

EPILOG = """\
settings are given as --section.name value on top of a preset, for example
  slm run quick --train.max-minutes 5 --model.width 192
  slm run sample --source.path stories.parquet --source.validation-path held-out.parquet
`slm settings` lists them all. The presets are the deployments of prefect.yaml.
"""


Command = Callable[..., argparse.ArgumentParser]  # declares one: see ``command`` in ``parser``


def parser() -> argparse.ArgumentParser:
    """The commands and what each takes, besides settings."""
    top = argparse.ArgumentParser(
        prog="slm",
        usage="slm COMMAND ... (slm COMMAND --help: its options)",
        description="Small language models, from raw stories to a registered model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    parsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True, prog="slm", help=argparse.SUPPRESS)
    top.set_defaults(commands=parsers.choices)

    def command(
        module: str, name: str, text: str, settings: bool = False, resumes: bool = False, acts: bool = False
    ) -> argparse.ArgumentParser:
        """``name``: also of its function in ``flows/commands/<module>.py``. ``settings``: it takes them, a preset, and
        how a run is carried out. ``resumes``: after an interruption, the same command starts where it stopped.
        ``acts``: it does more than print, so it continues where its output cannot be written."""
        made = parsers.add_parser(
            name,
            description=text,
            allow_abbrev=False,
            epilog=EPILOG if settings else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(module=module, takes_settings=settings, resumes=resumes, acts=resumes or acts)
        if settings:
            made.add_argument(
                "preset", nargs="?", help="a deployment of prefect.yaml; default: TinyStories, from the hub"
            )
            workers = "processes among which a stage's parts are divided; default: one per core"
            made.add_argument("--workers", "--num-workers", type=int, metavar="N", help=workers)
            made.add_argument(
                "--dask", metavar="ADDRESS", help="a Dask scheduler whose workers process the parts instead"
            )
            devices = f"short for --{' and --'.join(DEVICE_SETTINGS)}; either of them given too has precedence"
            made.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], help=devices)
            made.add_argument("--offline", action="store_true", help="use the last pinned revision of the source")
        top.description = f"{top.description}\n  {name:<15}{text}"
        return made

    for title, module, add in (
        ("build a model", "build", _add_build),
        ("use and manage models", "models", _add_models),
        ("exchange models with other systems", "formats", _add_formats),
        ("compare settings", "trials", _add_trials),
        ("see what was made from what", "lineage", _add_lineage),
        ("servers and environment", "services", _add_services),
    ):
        top.description = f"{top.description}\n\n{title}:"
        add(partial(command, module))
    return top


def _add_build(command: Command) -> None:
    run = command("run", "build, judge and register a model; finished stages are reused", settings=True, resumes=True)
    plan = command("plan", "show what a run would do, stage by stage, and why", settings=True)
    for made in (run, plan):
        made.add_argument("--until", metavar="STAGE", help="the last stage to run, for instance shard")
    accept = command("accept", "mark a cached result as still valid after a code change", settings=True, acts=True)
    accept.add_argument("--stage", required=True, help="the stage whose result is kept")
    verify = command("verify", "hash every byte of every artifact")
    verify.add_argument("stage", nargs="?", help="only this stage's artifacts")
    walk = command("walk", "follow one story through the pipeline", settings=True)
    walk.add_argument("--story", default=None, metavar="ID", help="the story's id, or the beginning of it")
    text = "another model than the preset's: NAME, NAME/VERSION, NAME@ALIAS, or a checkpoint folder"
    walk.add_argument("--model", default=None, metavar="REF", help=text)
    listing = command("settings", "list every setting with its default, its bounds and its meaning")
    listing.add_argument("section", nargs="?", help="only this section, for instance train or train.optimizer")
    listing.add_argument("--preset", metavar="NAME", help="show the values of this preset")


def _add_models(command: Command) -> None:
    generate = command("generate", "generate stories, from a prompt or from nothing")
    generate.add_argument("prompt", nargs="?", default="", help="how the story begins")
    reference = f"NAME (its champion), NAME/VERSION, NAME@ALIAS, or a checkpoint folder; default: {DEFAULT_MODEL}"
    generate.add_argument("--model", default=None, metavar="REF", help=reference)
    num = "number of stories; one is printed as it is generated, several a batch at a time"
    generate.add_argument("--num", type=int, default=1, help=num)
    for option, kind, text in SAMPLING:
        generate.add_argument(option, type=kind, default=None, help=text)
    generate.add_argument("--stop", action="append", default=None, help="end before this text; may be repeated")
    models = command("models", "list registered models with their aliases and verdicts")
    models.add_argument("name", nargs="?", help="only this registered model")
    models.add_argument("--compare", nargs=2, metavar=("A", "B"), help="compare version A with B on A's test stories")
    promote = command("promote", "make a version champion or reference by hand, whatever the gate decided", acts=True)
    promote.add_argument("reference", help="NAME/VERSION or NAME@ALIAS")
    promote.add_argument("--alias", choices=["champion", "reference"], default="champion")
    seal = command(
        "seal", "add the digest of its files to a version that was registered before bundles had one", acts=True
    )
    seal.add_argument("reference", help="NAME (all its versions), NAME/VERSION or NAME@ALIAS")
    text = "give the champion alias back to the previous champion, or to none if its files are gone"
    rollback = command("rollback", text, acts=True)
    rollback.add_argument("name", help="registered model")
    for made in (promote, rollback):
        made.add_argument("--why", default=f"{made.prog.split()[-1]}, no reason given", help="kept on the version")


def _add_formats(command: Command) -> None:
    export = command("export", "write a model for transformers, llama.cpp, Ollama or llama2.c", acts=True)
    reference = f"NAME (its champion), NAME/VERSION, NAME@ALIAS, or a checkpoint folder; `champion`: {DEFAULT_MODEL}"
    export.add_argument("model", help=reference)
    export.add_argument("out", help="the folder to make")
    export.add_argument("--to", required=True, choices=["huggingface", "gguf", "llama2c"], help="the format")
    text = "how GGUF stores matrices; default: f32, every bit of them"
    export.add_argument("--type", choices=["f32", "f16", "q8_0"], default="f32", help=text)
    text = "licence of the stories, as the hub names it (cdla-sharing-1.0), for the model card"
    export.add_argument("--data-license", default=None, metavar="NAME", help=text)
    text = "upload the folder to this repository of the Hugging Face hub, made private if there is none"
    export.add_argument("--push", default=None, metavar="REPO", help=text)
    bring = command("import", "read a model of transformers, llama.cpp or llama2.c, and register it", acts=True)
    source = "a folder with safetensors, a .gguf, a .bin of llama2.c with its tokenizer.bin, or an id of the hub"
    bring.add_argument("source", help=source)
    bring.add_argument("--name", default=None, help="register it under this name")
    text = "most tokens that it takes at once; default: as its files say"
    bring.add_argument("--context", type=int, default=None, metavar="N", help=text)


def _add_trials(command: Command) -> None:
    text = "train every setting of a grid, and rank them on validation stories"
    sweep = command("sweep", text, settings=True, resumes=True)
    over = "what is tried: train.batch_size=8,16; with --trials also a range: ...learning_rate=1e-4..1e-2"
    sweep.add_argument("--over", action="append", default=[], metavar="NAME=VALUES", help=over)
    sweep.add_argument("--trials", type=int, metavar="N", help="try so many settings; default: the whole grid")
    sweep.add_argument("--draw-seed", type=int, default=0, metavar="N", help="seed of the choice of settings")
    sampler = "how --trials are chosen: at random, or near those that scored well"
    sweep.add_argument("--sampler", choices=["random", "tpe"], default="random", help=sampler)
    text = "train networks of several sizes, and show which suits which budget"
    scaling = command("scaling", text, settings=True, resumes=True)
    scaling.add_argument("--minutes", type=float, metavar="M", help="minutes of training for each size")
    scaling.add_argument("--steps", type=int, metavar="N", help="or optimizer steps for each size")
    sizes = "width x layers, 64x2,128x4; default: half, once and twice the preset's"
    scaling.add_argument("--sizes", metavar="WxL,...", help=sizes)
    for made in (sweep, scaling):
        made.add_argument("--seeds", type=int, default=1, metavar="N", help="trainings of each setting; default: 1")
    text = "train with several seeds, and measure how far the results differ: a better model must win by more"
    variance = command("seed-variance", text, settings=True, resumes=True)
    variance.add_argument("--num", type=int, default=5, help="trainings; default: 5")


def _add_lineage(command: Command) -> None:
    show = command("show", "show an artifact by its key (or the beginning of it), or a model version")
    show.add_argument("reference", help="KEY, NAME/VERSION or NAME@ALIAS")
    trace = command("trace", "show what a model version, an artifact or a story was made from, and what from it")
    reference = "NAME, NAME/VERSION, NAME@ALIAS; a key, content digest, commit, revision, story id"
    trace.add_argument("reference", help=reference)
    replay = command("replay", "generate a version's recorded stories again, with its own code, and compare every byte")
    replay.add_argument("reference", nargs="?", help=f"NAME, NAME/VERSION or NAME@ALIAS; default: {DEFAULT_MODEL}")
    replay.add_argument("--story", type=int, metavar="N", help="show the recorded story of this number")
    text = "show the artifacts that no registered version and no recent run needs, or remove them"
    gc = command("gc", text, acts=True)
    days = "keep what was used in the last N days; default: 14"
    gc.add_argument("--keep-days", type=float, default=14, metavar="N", help=days)
    gc.add_argument("--yes", action="store_true", help="remove them")


def _add_services(command: Command) -> None:
    up = command("up", "serve Prefect's and MLflow's pages and run what is started there, until Ctrl-C", acts=True)
    text = "start killed runs of the server at PREFECT_API_URL again, until Ctrl-C"
    supervise = command("supervise", text, acts=True)
    doctor = command("doctor", "check the environment and show what to do; disk use by stage")
    for made in (up, doctor):
        made.add_argument("--prefect-port", type=partial(_number, 1, 65535), default=4200, metavar="N")
        made.add_argument("--mlflow-port", type=partial(_number, 1, 65535), default=5000, metavar="N")
    reruns = "how often a run whose process was killed is started again; default: 5"
    for made in (up, supervise):
        made.add_argument("--reruns", type=partial(_number, 0, 1000), default=5, metavar="N", help=reruns)


def _number(least: int, most: int, text: str) -> int:
    if not (text.isdecimal() and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from {least:,} to {most:,}")
    return int(text)


SAMPLING: tuple[tuple[str, type, str], ...] = (
    ("--temperature", float, "divides the logits; 0 always takes the most likely token"),
    ("--top-k", int, "keep this many of the most likely tokens"),
    ("--top-p", float, "keep the fewest most likely tokens whose probabilities sum to this"),
    ("--min-p", float, "drop tokens less likely than this share of the most likely one"),
    ("--repetition-penalty", float, "above 1: tokens that are there already become less likely"),
    ("--max-tokens", int, "most tokens to add"),
    ("--seed", int, "the same seed gives the same story"),
)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The console script. Given ``argv``, it leaves the signals to its caller."""
    output, interruptions = Output(), Interruptions()
    if argv is None:
        interruptions.listen()
        keep_private()
    try:
        status = _run(list(sys.argv[1:] if argv is None else argv), output, interruptions)
    except OutputLost:
        status = 0  # as far as the command came; ``status`` reports the rest
    except SystemExit as left:  # argparse's
        status = left.code if isinstance(left.code, int) else 0
    sys.exit(output.status(status))


def _run(arguments: list[str], output: Output, interruptions: Interruptions) -> int:
    """Parse, and call the command; a user's mistake is one line. Its exit status."""
    if arguments and (new := OLD_NAMES.get(arguments[0])):
        notice = f"`slm {arguments[0]}` is now called `slm {new}`: the old name works until the next release"
        print(f"slm: {notice}", file=sys.stderr)
        arguments[0] = new
    top = parser()
    if not arguments:
        top.print_help()
        return 0
    from slm_model.addresses import refuse_logins
    from slm_model.errors import Stopped, UserError
    from slm_model.visible import one_line
    from tasks.engine.paths import copied_environment

    try:
        settings, options = understood(arguments, top)
    except UserError as error:
        print(f"slm: {error}", file=sys.stderr)
        return USER_ERROR
    output.acts = options.acts and getattr(options, "yes", True)  # `slm gc` only prints, `slm gc --yes` removes
    if options.takes_settings and options.device:
        settings = dict.fromkeys(DEVICE_SETTINGS, options.device) | settings
    function = options.command.replace("-", "_")
    function += "_" * keyword.iskeyword(function)  # import_
    try:
        if wrong := copied_environment():
            raise UserError(wrong)
        refuse_logins()
        status: int = getattr(import_module(f"flows.commands.{options.module}"), function)(options, settings)
        return status
    except UserError as error:
        print(f"slm: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        from tasks.engine.paths import not_ours

        if (said := not_ours(error)) is None:
            raise
        print(f"slm: {one_line(said)}", file=sys.stderr)
        return USER_ERROR
    except (KeyboardInterrupt, Stopped):
        pass
    except Exception:
        if not interruptions.happened:  # else it is of a clean-up that was interrupted in its turn
            raise
    interruptions.ignore()
    again = f"; `{shlex.join(['slm', *arguments])}` resumes from there" if options.resumes else ""
    print(f"\nslm: stopped; what was finished is kept{again}", file=sys.stderr)
    return INTERRUPTED


def understood(arguments: Sequence[str], top: argparse.ArgumentParser) -> tuple[dict[str, Any], argparse.Namespace]:
    """The settings and the options of a command line. Raises UserError for a word that is neither, with what was
    probably meant."""
    from flows.suggestions import perhaps
    from slm_model.errors import UserError

    if bad := next((one for one in arguments if one.encode(errors="ignore").decode() != one), None):
        raise UserError(f"the argument {bad!r} is not UTF-8: rename what it names")
    commands = top.get_default("commands")
    name = arguments[0]
    if name not in commands and not name.startswith("-"):
        meant = perhaps(name, commands)
        raise UserError(f"there is no command {name!r}{meant or ':'} `slm` lists the commands")
    settings, rest = overrides(arguments, top)
    takes_settings = name in commands and commands[name].get_default("takes_settings")
    options, unknown = top.parse_known_args(rest)
    if takes_settings and options.preset and "=" in options.preset:
        unknown.append(options.preset)
    if unknown:
        word = next((word for word in unknown if word.startswith("-")), unknown[0])
        raise UserError(f"slm {name} does not take {word!r}: {_meant(word, commands[name], takes_settings)}")
    return settings, options


def _meant(word: str, command: argparse.ArgumentParser, takes_settings: bool) -> str:
    """What an unknown word of a command line should be."""
    from flows.suggestions import nearest_setting, perhaps

    if takes_settings:
        from flows.presets import described

        near = nearest_setting(word, [option for option, *_ in described() if " " not in option])
        if near:
            value = word.partition("=")[2] or "VALUE"
            return f"did you mean --{near} {value}? `slm settings` lists every setting"
    options = [option for action in command._actions for option in action.option_strings if option != "--help"]
    help_line = f"`{command.prog} --help` lists what it takes"
    return f"{perhaps(word, options).removeprefix('; ')} {help_line}".strip()


def overrides(arguments: Sequence[str], top: argparse.ArgumentParser) -> tuple[dict[str, Any], list[str]]:
    """``--section.name value`` and ``--section.name=value`` as a mapping of dotted names to JSON values or strings; and
    the other arguments."""
    found: dict[str, Any] = {}
    rest: list[str] = []
    command = top.get_default("commands").get(arguments[0]) if arguments else None
    takes_settings = command is not None and command.get_default("takes_settings")
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if not (takes_settings and name.startswith("--") and "." in name):
            rest.append(word)
            continue
        if not equals:
            following = next(words, None)
            if following is None:
                top.error(f"{name} wants a value")
            value = following
        found[name.removeprefix("--")] = value_of(value)
    return found, rest


class _Version(argparse.Action):
    """Prints the installed version; looking it up takes time, so it is done only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        print(f"slm-pipeline {version('slm-pipeline')}")
        sys.exit(0)


if __name__ == "__main__":
    main()
