"""The problems: published test functions on the kinds of spaces that services have.

Each problem has a space in the form that `kloros tune --ask-tell` reads, a function without noise, its known least value,
and the noise that the tools see. An instance is drawn from the seed of the run: where the optimum lies and how the axes are
turned, where the publication leaves that open, and the default.

The default is drawn by one rule for all problems: of 99 random settings that do not crash, the one that is better than
three in four. So it is plausible, and it is not the optimum.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Callable

import numpy as np

Config = dict[str, object]


class Crash(Exception):
    """The trial yields no number."""


@dataclass
class Instance:
    """A problem as one run meets it."""

    name: str
    seed: int
    space: list[dict]
    function: Callable[[Config], float]  # Without noise; raises Crash.
    least: float  # f*
    noise: float  # The standard deviation of a measurement, as a share of f(default) - f*.

    def __post_init__(self) -> None:
        draw = generator(self.name, self.seed, "default")
        found: list[tuple[float, int, Config]] = []
        while len(found) < 99:
            config = uniform(self.space, draw)
            try:
                found.append((self.function(config), len(found), config))
            except Crash:
                continue
        self.default_value, _, self.default = sorted(found, key=lambda each: each[:2])[24]

    def measure(self, config: Config, index: int) -> float | None:
        """Returns what the trial with this index of the run measures; None if it crashes.

        The noise belongs to the index, so every tool meets the same.
        """
        try:
            value = self.function(config)
        except Crash:
            return None
        sigma = self.noise * (self.default_value - self.least)
        return value + sigma * generator(self.name, self.seed, f"noise {index}").standard_normal()

    def regret(self, config: Config | None) -> float:
        """Returns (f(config) - f*) / (f(default) - f*): 0 is the optimum, 1 the default; 2 if it crashes or is missing."""
        try:
            if config is None or not valid(self.space, config):
                return 2.0
            return (self.function(config) - self.least) / (self.default_value - self.least)
        except Crash:
            return 2.0


def generator(*words: object) -> np.random.Generator:
    """Returns the random numbers that belong to these words."""
    digest = hashlib.sha256(repr(words).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def is_active(param: dict, config: Config) -> bool:
    """Returns whether a parameter counts, given the values of those before it."""
    when = param.get("when")
    return when is None or (when["param"] in config and config[when["param"]] in when["in"])


def uniform(space: list[dict], draw: np.random.Generator) -> Config:
    """Returns a random setting, uniform in each active parameter, on its scale."""
    config: Config = {}
    for param in space:
        if not is_active(param, config):
            continue
        kind = param["type"]
        if kind == "float":
            low, high = param["low"], param["high"]
            if param.get("log"):
                value: object = math.exp(draw.uniform(math.log(low), math.log(high)))
            else:
                value = float(draw.uniform(low, high))
            config[param["name"]] = min(max(value, low), high)
        elif kind == "int":
            config[param["name"]] = int(draw.integers(param["low"], param["high"], endpoint=True))
        elif kind == "bool":
            config[param["name"]] = bool(draw.integers(2))
        else:
            config[param["name"]] = param["choices"][int(draw.integers(len(param["choices"])))]
    return config


def valid(space: list[dict], config: Config) -> bool:
    """Returns whether every active parameter is there and within its range."""
    for param in space:
        if not is_active(param, config):
            continue
        value, kind = config.get(param["name"]), param["type"]
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if kind in ("float", "int"):
            whole = kind == "float" or (is_number and float(value).is_integer())
            if not is_number or not whole or not param["low"] <= value <= param["high"]:
                return False
        elif kind == "bool":
            if not isinstance(value, bool):
                return False
        elif value not in param["choices"]:
            return False
    return True


def floats(count: int, low: float, high: float, log: bool = False) -> list[dict]:
    return [{"name": f"x{i}", "type": "float", "low": low, "high": high, "log": log} for i in range(count)]


def vector(config: Config, count: int) -> np.ndarray:
    return np.array([float(config[f"x{i}"]) for i in range(count)])


# The functions of BBOB: Hansen, Finck, Ros, Auger: "Real-Parameter Black-Box Optimization Benchmarking 2009: Noiseless
# Functions Definitions", INRIA RR-6829. The number is the one there. The value at the optimum is moved to 0.


def rotation(size: int, draw: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(draw.standard_normal((size, size)))
    return q * np.sign(np.diag(r))


def oscillated(x: np.ndarray) -> np.ndarray:
    """Returns T_osz(x)."""
    x = np.asarray(x, dtype=float)
    hat = np.log(np.abs(np.where(x == 0, 1, x)))
    c1, c2 = np.where(x > 0, 10, 5.5), np.where(x > 0, 7.9, 3.1)
    return np.where(x == 0, 0, np.sign(x) * np.exp(hat + 0.049 * (np.sin(c1 * hat) + np.sin(c2 * hat))))


def asymmetric(x: np.ndarray, beta: float) -> np.ndarray:
    """Returns T_asy(x)."""
    power = 1 + beta * np.arange(len(x)) / max(len(x) - 1, 1) * np.sqrt(np.maximum(x, 0))
    return np.where(x > 0, np.maximum(x, 0) ** power, x)


def ladder(size: int, condition: float) -> np.ndarray:
    """Returns the diagonal from 1 to the root of the condition number."""
    return condition ** (0.5 * np.arange(size) / max(size - 1, 1))


def ellipsoid(z: np.ndarray, condition: float = 1e6) -> float:
    return float(np.sum(ladder(len(z), condition) ** 2 * oscillated(z) ** 2))


def rastrigin(z: np.ndarray) -> float:
    return float(10 * (len(z) - np.sum(np.cos(2 * np.pi * z))) + np.sum(z**2))


def rosenbrock(z: np.ndarray) -> float:
    return float(np.sum(100 * (z[:-1] ** 2 - z[1:]) ** 2 + (z[:-1] - 1) ** 2))


def bbob(number: int, size: int, draw: np.random.Generator) -> tuple[Callable[[np.ndarray], float], np.ndarray]:
    """Returns an instance of a BBOB function and its optimum."""
    best, r, q = draw.uniform(-4, 4, size), rotation(size, draw), rotation(size, draw)
    if number == 6:  # Attractive sector.
        turn = q @ np.diag(ladder(size, 10)) @ r

        def function(x: np.ndarray) -> float:
            z = turn @ (x - best)
            s = np.where(z * best > 0, 100, 1)
            return float(oscillated(np.array([np.sum((s * z) ** 2)]))[0] ** 0.9)
    elif number == 7:  # Step ellipsoid.

        def function(x: np.ndarray) -> float:
            hat = ladder(size, 10) * (r @ (x - best))
            steps = np.where(np.abs(hat) > 0.5, np.floor(0.5 + hat), np.floor(0.5 + 10 * hat) / 10)
            z = q @ steps
            return float(0.1 * max(abs(hat[0]) / 1e4, np.sum(ladder(size, 100) ** 2 * z**2)))
    elif number == 9:  # Rosenbrock, rotated.
        scale = max(1, math.sqrt(size) / 8)
        best = r.T @ (np.full(size, 0.5) / scale)

        def function(x: np.ndarray) -> float:
            return rosenbrock(scale * (r @ x) + 0.5)
    elif number == 10:  # Ellipsoid, rotated.

        def function(x: np.ndarray) -> float:
            return ellipsoid(r @ (x - best))
    elif number == 13:  # Sharp ridge.
        turn = q @ np.diag(ladder(size, 10)) @ r

        def function(x: np.ndarray) -> float:
            z = turn @ (x - best)
            return float(z[0] ** 2 + 100 * math.sqrt(np.sum(z[1:] ** 2)))
    elif number == 15:  # Rastrigin, rotated.
        turn = r @ np.diag(ladder(size, 10)) @ q

        def function(x: np.ndarray) -> float:
            return rastrigin(turn @ asymmetric(oscillated(r @ (x - best)), 0.2))
    elif number == 17:  # Schaffer's F7.

        def function(x: np.ndarray) -> float:
            z = ladder(size, 10) * (q @ asymmetric(r @ (x - best), 0.5))
            s = np.sqrt(z[:-1] ** 2 + z[1:] ** 2)
            return float(np.mean(np.sqrt(s) + np.sqrt(s) * np.sin(50 * s**0.2) ** 2) ** 2)
    elif number == 21:  # Gallagher's 101 peaks.
        peaks = np.vstack([best, draw.uniform(-5, 5, (100, size))])
        heights = np.concatenate([[10], 1.1 + 8 * np.arange(100) / 99])
        conditions = np.concatenate([[1000], draw.permutation(1000 ** (2 * np.arange(100) / 99))])
        scales = [draw.permutation(ladder(size, c) ** 2) / c**0.25 for c in conditions]

        def function(x: np.ndarray) -> float:
            turned = (x - peaks) @ r.T
            peak = heights * np.exp(-np.sum(np.array(scales) * turned**2, axis=1) / (2 * size))
            return float(oscillated(np.array([10 - np.max(peak)]))[0] ** 2)
    else:
        raise ValueError(f"no BBOB function {number} here")
    return function, best


def bbob_problem(number: int, size: int, draw: np.random.Generator) -> tuple:
    function, _ = bbob(number, size, draw)
    return floats(size, -5, 5), lambda config: function(vector(config, size)), 0.0


# Classics; the definitions and optima are those of Surjanovic and Bingham: "Virtual Library of Simulation Experiments".


def branin_value(x: float, y: float) -> float:
    b, c, t = 5.1 / (4 * math.pi**2), 5 / math.pi, 1 / (8 * math.pi)
    return (y - b * x * x + c * x - 6) ** 2 + 10 * (1 - t) * math.cos(x) + 10


BRANIN_SPACE = [
    {"name": "x0", "type": "float", "low": -5, "high": 10},
    {"name": "x1", "type": "float", "low": 0, "high": 15},
]


def branin(draw: np.random.Generator) -> tuple:
    return BRANIN_SPACE, lambda config: branin_value(*vector(config, 2)), 0.39788735772973816


def hartmann6(draw: np.random.Generator) -> tuple:
    alpha = np.array([1.0, 1.2, 3.0, 3.2])
    a = np.array([[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]])
    p = 1e-4 * np.array(
        [
            [1312, 1696, 5569, 124, 8283, 5886],
            [2329, 4135, 8307, 3736, 1004, 9991],
            [2348, 1451, 3522, 2883, 3047, 6650],
            [4047, 8828, 8732, 5743, 1091, 381],
        ]
    )

    def function(config: Config) -> float:
        return -float(np.sum(alpha * np.exp(-np.sum(a * (vector(config, 6) - p) ** 2, axis=1))))

    return floats(6, 0, 1), function, -3.32236801141551


def levy_log(draw: np.random.Generator) -> tuple:
    """Levy's function of the logarithms, as of rates, sizes and timeouts; the optimum is moved."""
    best = draw.uniform(-4, 4, 6)

    def function(config: Config) -> float:
        w = 1 + (np.log10(vector(config, 6)) * 4 - best) / 4
        inner = np.sum((w[:-1] - 1) ** 2 * (1 + 10 * np.sin(np.pi * w[:-1] + 1) ** 2))
        return float(np.sin(np.pi * w[0]) ** 2 + inner + (w[-1] - 1) ** 2 * (1 + np.sin(2 * np.pi * w[-1]) ** 2))

    return floats(6, 10**-2.5, 10**2.5, log=True), function, 0.0


# Mixed spaces.


def ackley_mixed(draw: np.random.Generator) -> tuple:
    """Ackley's function of switches and numbers; Bliek, Guijt, Verwer, de Weerdt (2021) use 50 and 3, here it is 5 and 3."""
    best = np.concatenate([draw.integers(0, 2, 5), draw.uniform(-0.8, 0.8, 3)])

    def function(config: Config) -> float:
        z = np.array([float(config[f"b{i}"]) for i in range(5)] + list(vector(config, 3))) - best
        bowl, waves = -20 * math.exp(-0.2 * math.sqrt(np.mean(z**2))), -math.exp(np.mean(np.cos(2 * np.pi * z)))
        return bowl + waves + 20 + math.e

    return [{"name": f"b{i}", "type": "bool"} for i in range(5)] + floats(3, -1, 1), function, 0.0


def mixed_integer(function: Callable[[np.ndarray], float], size: int, draw: np.random.Generator) -> tuple:
    """The way of bbob-mixint (Tusar, Brockhoff, Hansen 2019): a fifth each with 2, 4, 8, 16 levels, the rest continuous."""
    levels = [(2, 4, 8, 16, 0)[i * 5 // size] for i in range(size)]
    grid = lambda level, count: -4 + 8 * (level + 1) / (count + 1)
    best = np.array([grid(int(draw.integers(n)), n) if n else draw.uniform(-4, 4) for n in levels])
    space = [
        {"name": f"x{i}", "type": "int", "low": 0, "high": n - 1} if n else {"name": f"x{i}", "type": "float", "low": -5, "high": 5}
        for i, n in enumerate(levels)
    ]

    def value(config: Config) -> float:
        x = np.array([grid(config[f"x{i}"], n) if n else config[f"x{i}"] for i, n in enumerate(levels)], dtype=float)
        return function(x - best)

    return space, value, 0.0


def func3c(draw: np.random.Generator) -> tuple:
    """Three categories choose a sum of Rosenbrock, six-hump camel and Beale; Ru, Alvi, Nguyen, Osborne, Roberts (2020)."""
    rosen = lambda x, y: (100 * (y - x * x) ** 2 + (x - 1) ** 2) / 300
    camel = lambda x, y: ((4 - 2.1 * x * x + x**4 / 3) * x * x + x * y + (-4 + 4 * y * y) * y * y) / 10
    beale = lambda x, y: ((1.5 - x + x * y) ** 2 + (2.25 - x + x * y * y) ** 2 + (2.625 - x + x * y**3) ** 2) / 50
    parts = {"rosenbrock": rosen, "camel": camel, "beale": beale}
    third = {"camel": (5, camel), "rosenbrock": (2, rosen)}

    def function(config: Config) -> float:
        x, y = 2 * vector(config, 2)
        weight, last = third.get(config["third"], (list(parts).index(config["second"]), beale))
        return float(parts[config["first"]](x, y) + parts[config["second"]](x, y) + weight * last(x, y))

    choices = lambda name, values: {"name": name, "type": "categorical", "choices": values}
    # The order of choices says nothing, and the tools must not profit from it.
    shuffled = lambda values: [values[int(i)] for i in draw.permutation(len(values))]
    space = [choices(name, shuffled(list(parts))) for name in ("first", "second", "third")]
    return space + floats(2, -1, 1), function, -0.7 * 1.0316284534898774


def tree(draw: np.random.Generator) -> tuple:
    """A tree of conditional parameters; Jenatton, Archambeau, Gonzalez, Seeger (2017). The parabolas are moved."""
    best = draw.uniform(-0.8, 0.8, 4)
    on = lambda param, *values: {"param": param, "in": list(values)}
    number = lambda name, low, when: {"name": name, "type": "float", "low": low, "high": 1, "when": when}
    space = [
        {"name": "root", "type": "categorical", "choices": ["left", "right"]},
        {"name": "left", "type": "bool", "when": on("root", "left")},
        {"name": "right", "type": "bool", "when": on("root", "right")},
        number("x0", -1, on("left", False)),
        number("x1", -1, on("left", True)),
        number("x2", -1, on("right", False)),
        number("x3", -1, on("right", True)),
        number("shift_left", 0, on("root", "left")),
        number("shift_right", 0, on("root", "right")),
    ]

    def function(config: Config) -> float:
        leaf = (0 if config["root"] == "left" else 2) + int(config[config["root"]])
        return (config[f"x{leaf}"] - best[leaf]) ** 2 + 0.1 * (leaf + 1) + config[f"shift_{config['root']}"]

    return space, function, 0.1


# Regions that crash.


def branin_disk(draw: np.random.Generator) -> tuple:
    """Branin within a disk; Gelbart, Snoek, Adams (2014)."""

    def function(config: Config) -> float:
        x, y = vector(config, 2)
        if (x - 2.5) ** 2 + (y - 7.5) ** 2 > 50:
            raise Crash
        return branin_value(x, y)

    return BRANIN_SPACE, function, 0.39788735772973816


def bird_disk(draw: np.random.Generator) -> tuple:
    """Mishra's bird within a disk; Mishra (2006)."""

    def function(config: Config) -> float:
        x, y = vector(config, 2)
        if (x + 5) ** 2 + (y + 5) ** 2 >= 25:
            raise Crash
        return float(
            math.sin(y) * math.exp((1 - math.cos(x)) ** 2) + math.cos(x) * math.exp((1 - math.sin(y)) ** 2) + (x - y) ** 2
        )

    space = [{"name": "x0", "type": "float", "low": -10, "high": 0}, {"name": "x1", "type": "float", "low": -6.5, "high": 0}]
    return space, function, -106.76453674926468


def pressure_vessel(draw: np.random.Generator) -> tuple:
    """The pressure vessel; Sandgren (1990), with the optimum of Yang, Huyck, Karamanoglu, Khan (2013)."""
    space = [
        {"name": "shell", "type": "int", "low": 1, "high": 99},
        {"name": "head", "type": "int", "low": 1, "high": 99},
        {"name": "radius", "type": "float", "low": 10, "high": 200},
        {"name": "length", "type": "float", "low": 10, "high": 200},
    ]

    def function(config: Config) -> float:
        shell, head = 0.0625 * config["shell"], 0.0625 * config["head"]
        radius, length = config["radius"], config["length"]
        volume = math.pi * radius**2 * length + 4 / 3 * math.pi * radius**3
        if shell < 0.0193 * radius or head < 0.00954 * radius or volume < 1296000:
            raise Crash
        return float(
            0.6224 * shell * radius * length + 1.7781 * head * radius**2 + 3.1661 * shell**2 * length + 19.84 * shell**2 * radius
        )

    return space, function, 6059.714335048436


def cliff(draw: np.random.Generator) -> tuple:
    """BBOB's Rosenbrock function with a cliff close behind the optimum, as of memory that is used up."""
    function, best = bbob(9, 5, draw)
    across = draw.standard_normal(5)
    across /= np.linalg.norm(across)

    def value(config: Config) -> float:
        x = vector(config, 5)
        if across @ (x - best) > 0.5:
            raise Crash
        return function(x)

    return floats(5, -5, 5), value, 0.0


# Name, noise, and what draws an instance.
PROBLEMS: dict[str, tuple[float, Callable[[np.random.Generator], tuple]]] = {
    "attractive_sector_5": (0.0, lambda draw: bbob_problem(6, 5, draw)),
    "step_ellipsoid_5": (0.0, lambda draw: bbob_problem(7, 5, draw)),
    "rosenbrock_6": (0.0, lambda draw: bbob_problem(9, 6, draw)),
    "ellipsoid_5": (0.0, lambda draw: bbob_problem(10, 5, draw)),
    "sharp_ridge_6_noisy": (0.05, lambda draw: bbob_problem(13, 6, draw)),
    "rastrigin_4": (0.0, lambda draw: bbob_problem(15, 4, draw)),
    "schaffer_5_noisy": (0.1, lambda draw: bbob_problem(17, 5, draw)),
    "gallagher_4_noisy": (0.1, lambda draw: bbob_problem(21, 4, draw)),
    "branin": (0.0, branin),
    "hartmann_6_noisy": (0.1, hartmann6),
    "levy_log_6": (0.0, levy_log),
    "ackley_mixed_8": (0.0, ackley_mixed),
    "mixint_ellipsoid_10_noisy": (0.1, lambda draw: mixed_integer(lambda z: ellipsoid(z, 1e3), 10, draw)),
    "mixint_rastrigin_5": (0.0, lambda draw: mixed_integer(rastrigin, 5, draw)),
    "func3c_noisy": (0.1, func3c),
    "tree_noisy": (0.05, tree),
    "branin_disk_noisy": (0.05, branin_disk),
    "bird_disk": (0.0, bird_disk),
    "pressure_vessel": (0.0, pressure_vessel),
    "cliff_rosenbrock_5_noisy": (0.05, cliff),
}


def instance(name: str, seed: int) -> Instance:
    """Returns the instance of the problem `name` that belongs to the seed."""
    noise, make = PROBLEMS[name]
    space, function, least = make(generator(name, seed, "instance"))
    return Instance(name, seed, space, function, least, noise)
