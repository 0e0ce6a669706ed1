"""Compares optimisers at budgets that the tuning of a service can afford, and prints a table. See README.md."""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import importlib.metadata
import inspect
import json
import math
import os
import sys
import time
from pathlib import Path

# One thread for each run, before numpy is loaded.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np

import problems
import tools

BUDGETS = (24, 48)


def run(tool: str, problem: str, seed: int, budget: int, program: str) -> dict:
    """Returns what one run of one tool on one problem came to."""
    tools.Kloros.program = program
    instance = problems.instance(problem, seed)
    optimiser = tools.TOOLS[tool](instance, budget)
    spent_s, trials, failed = 0.0, 0, 0
    while trials < budget:
        start = time.perf_counter()
        asked = optimiser.ask()
        spent_s += time.perf_counter() - start
        if not asked:
            break
        if len(asked) > budget - trials:
            raise RuntimeError(f"{tool} asked for more trials than are left")
        if trials == 0 and not same(asked[0], instance.default):
            raise RuntimeError(f"{tool} began with {asked[0]} and not with the default")
        values: list[float | None] = []
        for config in asked:
            # A setting outside the space is a trial that failed.
            value = instance.measure(config, trials) if problems.valid(instance.space, config) else None
            values.append(value)
            trials += 1
            failed += value is None
        start = time.perf_counter()
        optimiser.tell(values, budget - trials)
        spent_s += time.perf_counter() - start
    regret = instance.regret(optimiser.recommend())
    return {"regret": regret, "trials": trials, "failed": failed, "spent_s": round(spent_s, 3)}


def version(tool: str, program: str) -> str:
    """Returns what says whether a stored run is still of this tool."""
    package = tool.split("-")[0]
    if package == "kloros":
        return digest(Path(program).read_bytes())
    return "1" if package == "random" else importlib.metadata.version(package)


def same(one: dict, other: dict) -> bool:
    """Returns whether two settings are the same, apart from the last digits of numbers."""
    near = lambda a, b: a == b or (isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12))
    return one.keys() == other.keys() and all(near(one[name], other[name]) for name in one)


def digest(content: str | bytes) -> str:
    return hashlib.sha256(content if isinstance(content, bytes) else content.encode()).hexdigest()[:16]


def stored(cache: Path | None) -> dict[str, dict]:
    """Returns the runs in the file, by what they are of."""
    if cache is None or not cache.exists():
        return {}
    lines = (json.loads(line) for line in cache.read_text().splitlines() if line.endswith("}"))
    return {line["of"]: line["is"] for line in lines}


def all_runs(options: argparse.Namespace) -> dict[tuple[str, str, int, int], dict]:
    """Returns every run, from the cache where it is there."""
    sources = {tool: "".join(map(inspect.getsource, tools.TOOLS[tool].__mro__[:-1])) for tool in options.tools}
    code = {tool: digest(inspect.getsource(problems) + sources[tool]) for tool in options.tools}
    known, found, missing = stored(options.cache), {}, {}
    # Seed by seed, so that a comparison that is cut off has compared something.
    for seed in options.seeds:
        for tool in options.tools:
            for problem in options.problems:
                for budget in BUDGETS:
                    name = f"{tool} {version(tool, options.kloros)} {problem} {seed} {budget} {code[tool]}"
                    key = (tool, problem, seed, budget)
                    if name in known:
                        found[key] = known[name]
                    else:
                        missing[key] = name
    with concurrent.futures.ProcessPoolExecutor(options.jobs) as pool:
        jobs = {pool.submit(run, *key, options.kloros): key for key in missing}
        for count, job in enumerate(concurrent.futures.as_completed(jobs), 1):
            key = jobs[job]
            found[key] = job.result()
            print(f"\r{count} of {len(jobs)} runs", end="", file=sys.stderr)
            if options.cache is not None:
                with options.cache.open("a") as file:
                    file.write(json.dumps({"of": missing[key], "is": found[key]}) + "\n")
        if jobs:
            print(file=sys.stderr)
    return found


def interval(ours: np.ndarray, theirs: np.ndarray, by_problem: bool) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of mean(ours) / mean(theirs) - 1; rows are problems, columns are seeds.

    Both are drawn together, so it is paired. Drawn are runs of each problem, or whole problems and then runs of them.
    """
    draw = problems.generator("bootstrap")
    rows, columns = ours.shape
    ratios = []
    for _ in range(4000):
        row = draw.integers(rows, size=rows) if by_problem else np.arange(rows)
        column = draw.integers(columns, size=(rows, columns))
        ratios.append(ours[row[:, None], column].mean() / theirs[row[:, None], column].mean() - 1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def ranks(values: np.ndarray) -> np.ndarray:
    """Returns the rank of each along the first axis, from 1; equal ones share theirs."""
    below = (values[:, None] > values[None, :]).sum(axis=1)
    equal = (values[:, None] == values[None, :]).sum(axis=1)
    return below + (equal + 1) / 2


def report(options: argparse.Namespace, runs: dict) -> None:
    """Prints the tables."""
    shape = (len(options.tools), len(options.problems), len(options.seeds))

    def table(what: str, budget: int) -> np.ndarray:
        cells = [runs[tool, problem, seed, budget][what] for tool in options.tools for problem in options.problems for seed in options.seeds]
        return np.array(cells, dtype=float).reshape(shape)

    print(f"{len(options.problems)} problems, {len(options.seeds)} seeds; regret is (f(rec) - f*) / (f(default) - f*)\n")
    print(f"{'':10} {'evals':>5} {'mean regret':>11} {'median':>7} {'mean rank':>9} {'failed':>7} {'worse than default':>18} {'s a run':>8}")
    for budget in BUDGETS:
        regret, failed, trials, spent = (table(what, budget) for what in ("regret", "failed", "trials", "spent_s"))
        rank = ranks(regret)
        for index, tool in enumerate(options.tools):
            share, worse = failed[index].sum() / trials[index].sum(), np.mean(regret[index] > 1 + 1e-9)
            print(
                f"{tool:10} {budget:5} {regret[index].mean():11.4f} {np.median(regret[index]):7.4f} {rank[index].mean():9.2f} "
                f"{share:7.1%} {worse:18.1%} {spent[index].mean():8.2f}"
            )
    if "kloros" in options.tools:
        us = options.tools.index("kloros")
        print(f"\nkloros against {'':10} {'evals':>5} {'mean regret':>11}   95 % over runs      95 % over problems too")
        for budget in BUDGETS:
            regret = table("regret", budget)
            for index, tool in enumerate(options.tools):
                if index == us:
                    continue
                inner, outer = (interval(regret[us], regret[index], by) for by in (False, True))
                change = regret[us].mean() / regret[index].mean() - 1
                print(f"{'':14} {tool:10} {budget:5} {change:+11.1%}   {inner[0]:+7.1%} to {inner[1]:+7.1%}   {outer[0]:+7.1%} to {outer[1]:+7.1%}")
    crashing = [i for i, name in enumerate(options.problems) if table("failed", 48)[:, i].sum() > 0]
    print(f"\n{'mean regret by problem, failed trials in brackets':50} " + " ".join(f"{t + ' ' + str(b):>16}" for b in BUDGETS for t in options.tools))
    for row, problem in enumerate(options.problems):
        cells = []
        for budget in BUDGETS:
            regret, failed, trials = (table(what, budget) for what in ("regret", "failed", "trials"))
            for index in range(len(options.tools)):
                share = f" ({failed[index, row].sum() / trials[index, row].sum():.0%})" if row in crashing else ""
                cells.append(f"{regret[index, row].mean():.4f}{share}")
        print(f"{problem:50} " + " ".join(f"{cell:>16}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kloros", default="target/release/kloros", help="the program [default: %(default)s]")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds [default: %(default)s]")
    parser.add_argument("--first-seed", type=int, default=1, help="the first of them [default: %(default)s]")
    parser.add_argument("--tools", default=",".join(tools.TOOLS), help="[default: %(default)s]")
    parser.add_argument("--problems", default=",".join(problems.PROBLEMS), help="[default: all]")
    parser.add_argument("--jobs", type=int, default=1, help="how many runs at once [default: %(default)s]")
    parser.add_argument("--cache", type=Path, help="a file that keeps runs, so that each is made once")
    options = parser.parse_args()
    options.tools, options.problems = options.tools.split(","), options.problems.split(",")
    options.seeds = range(options.first_seed, options.first_seed + options.seeds)
    for name, known in [*((each, tools.TOOLS) for each in options.tools), *((each, problems.PROBLEMS) for each in options.problems)]:
        if name not in known:
            parser.error(f"{name} is none of {', '.join(known)}")
    if any(tool.startswith("kloros") for tool in options.tools) and not Path(options.kloros).is_file():
        parser.error(f"there is no {options.kloros}: build it with `cargo build --release`, or name it with --kloros")
    report(options, all_runs(options))


if __name__ == "__main__":
    main()
