#!/usr/bin/env python3
"""Says how a home is and what it has measured of its service, all of it from the facts that kloros prints.

    ops/real/facts.py over KLOROS HOME
    ops/real/facts.py row KLOROS HOME SERVICE METRIC

`over` ends with 0 when what was asked has ended and nothing that was deployed is unproven. `row` prints a row of a table: of
the deployment that gained most and was kept, METRIC before and after as medians of its validation, and the gain of its objective with
its interval; how many trials were made, how long it took from the first experiment to the last verdict, and how many deployments were
taken back. Where none was kept, it says so.
"""

import json
import subprocess
import sys


def facts(kloros, home, *arguments):
    output = subprocess.run([kloros, "--home", home, "--json", *arguments], capture_output=True, check=True, text=True)
    return json.loads(output.stdout.splitlines()[-1])


def number(value):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def is_over(kloros, home):
    questions, deployments = facts(kloros, home, "questions"), facts(kloros, home, "deployments")
    return bool(questions) and all(each["end"] for each in questions) and all(
        each["stage"] == "closed" for each in deployments
    )


def row(kloros, home, service, metric):
    deployments = facts(kloros, home, "deployments", "--limit", "1000")
    experiments = facts(kloros, home, "experiments", "--limit", "1000")
    verdicts = [each["verdict"] for each in deployments if each.get("verdict")]
    rollbacks = sum(verdict["outcome"] == "rollback" for verdict in verdicts)
    trials = sum(each["trials"] for each in experiments)
    started = min((each["experiment"]["at_ms"] for each in experiments), default=None)
    kept = [each for each in verdicts if each["outcome"] != "rollback" and each.get("improvement")]
    minutes = (max(each["at_ms"] for each in verdicts) - started) / 60_000 if verdicts and started else None
    minutes = "" if minutes is None else f"{minutes:.0f}"
    print("| service | default | tuned | gain | trials | minutes | rollbacks |")
    print("|---|---|---|---|---|---|---|")
    if not kept:
        before = f"{metric} {number(verdicts[-1]['before'][metric])}" if verdicts and verdicts[-1]["before"] else ""
        print(f"| {service} | {before} | nothing better was proven | | {trials} | {minutes} | {rollbacks} |")
        return
    best = max(kept, key=lambda verdict: verdict["improvement"]["ratio"])
    gain = best["improvement"]
    ratios = [f"{gain[name] * 100:+.0f}" for name in ("ratio", "low", "high")]
    settings = " ".join(f"{key}={change['to']}" for key, change in sorted(best["changes"].items()))
    before, after = number(best["before"][metric]), number(best["after"][metric])
    print(
        f"| {service} | {metric} {before} | {after} with `{settings}` | {ratios[0]} % ({ratios[1]} to {ratios[2]}) "
        f"| {trials} | {minutes} | {rollbacks} |"
    )


what, *arguments = sys.argv[1:]
if what == "row":
    row(*arguments)
else:
    sys.exit(0 if is_over(*arguments) else 1)
