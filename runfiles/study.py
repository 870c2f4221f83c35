"""Make a study's runs, print its tables, draw its figures, and keep its results.

    python runfiles/study.py NAME [run]              train and test what is missing, and keep the results
    python runfiles/study.py NAME table [TABLE]      print its tables, or one of them
    python runfiles/study.py NAME figure [FIGURE] --out FILE.png
    python runfiles/study.py NAME cell TABLE ROW COLUMN      print one cell of a table
    python runfiles/study.py NAME keep [FILE ...]    keep the results in the repository, and those of other kept files
    python runfiles/study.py docs                    write the tables and figures of README.md and docs/ anew
    python runfiles/study.py                         list the studies

The runs are in results/NAME, a core each; the same command resumes them after Ctrl-C, SIGTERM or a crash. Tables and
figures show the runs in results/ and those in docs/results/NAME.jsonl.xz, one set for each kind of machine. Flags after
-- are main.py's, for the trainings and tests that know them; new runs are in a folder of results/NAME that is named
after the flags.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace

import documents
from catalogue import STUDIES, Study
from outcomes import datasets_of, here, is_known, outcomes, parse
from records import KEPT, ROOT, keep, merge, read_all, read_kept
from workers import LOG, make

import data
from errors import Parser, UserError, run
from files import locked
from settings import path_text, to_path, whole


def main() -> int:
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    args = parser().parse_intermixed_args(words[:end])
    if args.name is None:
        print(*(f"{name}: {study.question} ({study.time})" for name, study in STUDIES.items()), sep="\n")
        return 0
    if args.name == "docs":
        documents.write_all(read_all(None, args.kept))
        return 0
    if args.name not in STUDIES:
        raise UserError(f"there is no study {args.name}: choose one of {', '.join(STUDIES)}")
    study, args.flags = with_flags(STUDIES[args.name], words[end + 1 :]), words[end + 1 :]
    if args.seeds and (missing := set(args.seeds) - {seed for seed, _ in study.pairs()}):
        raise UserError(f"{study.name} has no run with the seed {min(missing)}: leave --seeds out, or choose others")
    return ACTIONS[args.action](study, args)


def parser() -> Parser:
    head, usage, more = (__doc__ or "\n\n\n\n").split("\n\n")
    p = Parser(prog="study.py", description=head, epilog=more, usage=usage.replace("    python runfiles/", "").strip())
    p.add_argument("name", nargs="?", metavar="NAME", help=f"{', '.join(STUDIES)}; or docs")
    p.add_argument("action", nargs="?", default="run", choices=ACTIONS, help="what to do (default: run)")
    p.add_argument("what", nargs="*", metavar="TABLE", help="a table or a figure; of a cell its table, row and column")
    p.add_argument("--jobs", type=whole(1), metavar="N", help="runs at a time (default: the number of cores)")
    p.add_argument("--seeds", type=whole(0), nargs="+", metavar="SEED", help="make only the runs of these seeds")
    p.add_argument("--data_dir", type=path_text, default="data", metavar="DIR", help="folder of the datasets (data)")
    p.add_argument("--results", type=to_path, default=ROOT / "results", metavar="DIR", help="folder of the runs")
    p.add_argument("--kept", type=to_path, default=KEPT, metavar="DIR", help="folder of the kept results")
    p.add_argument("--out", type=to_path, metavar="FILE", help="file of the figure")
    return p


def with_flags(study: Study, words: list[str]) -> Study:
    """Return the study with further flags of main.py: each for the trainings and for the tests that know it, in place
    of what these have. Raise UserError for a flag that none knows, and for one whose values the study chooses."""
    flags, used = re.split(r" (?=--)", shlex.join(words)) if words else [], set()
    chosen = {"seed", "data_dir", "savedir"}.union(*(run.choose for run in study.runs.values()))
    if mine := [flag for flag in flags if flag.split()[0].removeprefix("--") in chosen]:
        raise UserError(f"{mine[0]} after -- cannot change what {study.name} sets itself: leave it out")

    def with_known(before: str, context: str = "") -> str:
        known = [flag for flag in flags if is_known(f"{context} {before} {flag}")]
        used.update(known)
        return " ".join([before, *known])

    training = f"--mode meta_train {study.train}"
    runs = {
        n: run if run.weights else replace(run, flags=with_known(run.flags, training)) for n, run in study.runs.items()
    }
    tests = {name: replace(test, flags=with_known(test.flags)) for name, test in study.tests.items()}
    if idle := [flag for flag in flags if flag not in used]:
        raise UserError(f"{idle[0]} is no flag of the trainings and tests of {study.name}: see main.py --help")
    return replace(study, runs=runs, tests=tests)


LOCK = "study.lock"  # in the folder of the runs: one study at a time uses the cores

# ---- the actions: each takes the study and the flags of the command line


def make_runs(study: Study, args: argparse.Namespace) -> int:
    """Make what is missing, if no other study makes runs in the same folder."""
    if study.unfinished:
        raise UserError(f"the runs of {study.name} are made by scripts, runfiles/*.sh: start those")
    with locked(args.results / LOCK, f"makes runs in {args.results}: wait for it, or choose other --results"):
        return make_rounds(study, args)


def make_rounds(study: Study, args: argparse.Namespace) -> int:
    """Make what is missing, round by round, since choices and attacks need earlier runs; keep the results after each
    round. Raise UserError if runs failed, when the others are made."""
    before, failed = None, []
    folder = args.results / study.name / re.sub(r"[^\w.]+", "_", " ".join(args.flags)).strip("_")[:100]
    while True:
        jobs = here(study, read_all(args.results, args.kept), present(study, args)).jobs(folder, args.seeds)
        jobs = [job for job in jobs if job.savedir not in failed]
        if not jobs:
            if before is None:
                keep_results(study, args)  # it was stopped after its last run, or its runs were copied here
            break
        if jobs == before:
            raise RuntimeError(f"{jobs[0].savedir} was made, and is still missing: {jobs[0].commands[0]}")
        commands = [words for job in jobs for words in job.commands if "--dataset" in words]
        for name in sorted({parse(shlex.join(words))["dataset"] for words in commands}):
            data.load(args.data_dir, name)  # one sentence here, rather than one in the log of each run
        (finished, lost), before = make(jobs, args.jobs, args.data_dir, study.name), jobs
        failed += lost
        keep_results(study, args)
        if not finished:
            print("interrupted, all runs are saved: the same command resumes them", file=sys.stderr)
            return 130
    if failed:
        names = ", ".join(map(str, failed))
        raise UserError(f"{len(failed)} runs failed: see {LOG} in {names}, correct the cause and run again")
    print_tables(study, args)
    return 0


def present(study: Study, args: argparse.Namespace) -> dict[str, str]:
    """Return the digests of the datasets that are here and that the study's runs are trained on. Trained weights may be
    tested on the originals of their data, whose digest is another."""
    found, trained = {}, {name: run for name, run in study.runs.items() if not run.weights}
    for name in datasets_of(replace(study, runs=trained)):
        with contextlib.suppress(UserError):
            found[name] = data.load(args.data_dir, name).sha256
    return found


def print_tables(study: Study, args: argparse.Namespace) -> int:
    """Print the study's tables, or those that are named. Raise UserError if there is none."""
    found = outcomes(study, read_all(args.results, args.kept))
    for name in args.what or [name for name, table in study.tables.items() if any(map(table, found))] or study.tables:
        print(f"{documents.table(study, name, found)}\n")
    return 0


def print_cell(study: Study, args: argparse.Namespace) -> int:
    """Print one cell of a table."""
    if len(args.what) != 3:
        raise UserError('a cell has a table, a row and a column: cell accuracy "Meta-dropout" "accuracy"')
    found = outcomes(study, read_all(args.results, args.kept))
    print(documents.cell(documents.table(study, args.what[0], found), *args.what[1:]))
    return 0


def draw(study: Study, args: argparse.Namespace) -> int:
    """Draw one of the study's figures into the file of --out."""
    if args.out is None:
        raise UserError("--out is missing: name the file of the figure, for example --out figure.png")
    name = args.what[0] if args.what else next(iter(study.figures), "")
    documents.figure(study, name, outcomes(study, read_all(args.results, args.kept)), args.out)
    return 0


def keep_results(study: Study, args: argparse.Namespace) -> int:
    """Write the study's results, but no results of other flags, into its kept file, with the results that the file has
    already and those of the kept files that the command names."""
    path, declared = args.kept / f"{study.name}.jsonl.xz", STUDIES[study.name]
    others = [to_path(name) for name in args.what] if args.action == "keep" else []
    if missing := [file for file in others if not file.is_file()]:
        raise UserError(f"there is no {missing[0]}: name kept files of other machines, or none")
    records = merge([*read_all(args.results, args.kept), *(record for file in others for record in read_kept(file))])
    found = [record for one in outcomes(declared, records) for record in one.of_study()]
    before, after = (sum(len(record.results) for record in of) for of in (read_kept(path), found))
    if found:
        keep(path, found)
    less = f"; {before - after} results fewer than before, which git has" if before > after else ""
    print(f"{path}: {len(found)} runs{less}")
    return 0


ACTIONS: dict[str, Callable[[Study, argparse.Namespace], int]] = {
    "run": make_runs, "table": print_tables, "figure": draw, "cell": print_cell, "keep": keep_results,
}  # fmt: skip

if __name__ == "__main__":
    run(main)
