"""The tools that are compared: each asks for trials, is told what they measured, and recommends a setting.

Every tool gets the default as its first trial, the same evaluations and the same seeds. What Optuna and SMAC3 recommend is
what they call their best: the best trial, and the incumbent.
"""

from __future__ import annotations

import json
import logging
import math
import subprocess
import tempfile
import warnings
from typing import Protocol

from problems import Config, Instance, generator, is_active, uniform

LOT = 4  # How many a tool that takes lots is given at once.


class Tool(Protocol):
    """One run of one optimiser."""

    def ask(self) -> list[Config]: ...

    def tell(self, values: list[float | None], remaining: int) -> None: ...

    def recommend(self) -> Config | None: ...


class Random:
    """The default, then random settings; recommends the best trial."""

    def __init__(self, instance: Instance, budget: int) -> None:
        self.space, self.draw = instance.space, generator("random", instance.name, instance.seed)
        self.asked, self.best = [instance.default], (math.inf, None)

    def ask(self) -> list[Config]:
        return self.asked

    def tell(self, values: list[float | None], remaining: int) -> None:
        for config, value in zip(self.asked, values):
            if value is not None and value < self.best[0]:
                self.best = (value, config)
        self.asked = [uniform(self.space, self.draw) for _ in range(min(LOT, remaining))]

    def recommend(self) -> Config | None:
        return self.best[1]


class Optuna:
    """Optuna's TPE, multivariate, constant liar, in lots of four."""

    lot = LOT

    def __init__(self, instance: Instance, budget: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore")
        conditional = any("when" in param for param in instance.space)
        sampler = optuna.samplers.TPESampler(
            seed=instance.seed,
            multivariate=True,
            constant_liar=True,
            # Without groups, parameters that are not always there would be drawn each on its own.
            group=conditional,
        )
        self.optuna, self.space = optuna, instance.space
        self.study = optuna.create_study(sampler=sampler)
        self.study.enqueue_trial(instance.default)
        self.remaining = budget
        self.configs: dict[int, Config] = {}

    def ask(self) -> list[Config]:
        self.trials = [self.study.ask() for _ in range(min(self.lot, self.remaining))]
        for trial in self.trials:
            self.configs[trial.number] = self.suggest(trial)
        return [self.configs[trial.number] for trial in self.trials]

    def suggest(self, trial) -> Config:
        config: Config = {}
        for param in self.space:
            if not is_active(param, config):
                continue
            name, kind = param["name"], param["type"]
            if kind == "float":
                config[name] = trial.suggest_float(name, param["low"], param["high"], log=param.get("log", False))
            elif kind == "int":
                config[name] = trial.suggest_int(name, param["low"], param["high"], log=param.get("log", False))
            else:
                config[name] = trial.suggest_categorical(name, [False, True] if kind == "bool" else param["choices"])
        return config

    def tell(self, values: list[float | None], remaining: int) -> None:
        for trial, value in zip(self.trials, values):
            if value is None:
                self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
            else:
                self.study.tell(trial, value)
        self.remaining = remaining

    def recommend(self) -> Config | None:
        try:
            return self.configs[self.study.best_trial.number]
        except ValueError:
            return None


class OptunaOneByOne(Optuna):
    """Optuna's TPE without lots."""

    lot = 1


class Smac:
    """SMAC3's facade for hyper-parameters, one trial at a time as is its way; of a noisy function it knows that it is."""

    def __init__(self, instance: Instance, budget: int) -> None:
        import smac
        from smac.runhistory import StatusType, TrialInfo, TrialValue

        logging.getLogger("smac").setLevel(logging.CRITICAL)
        warnings.simplefilter("ignore")
        self.status, self.value_type = StatusType, TrialValue
        self.space, self.configspace = instance.space, self.configuration_space(instance.space, instance.seed)
        self.folder = tempfile.TemporaryDirectory(prefix="smac-")
        scenario = smac.Scenario(
            self.configspace,
            name=f"{instance.name}-{instance.seed}-{budget}",
            deterministic=instance.noise == 0,
            n_trials=budget,
            seed=instance.seed,
            output_directory=self.folder.name,
        )
        facade = smac.HyperparameterOptimizationFacade
        self.smac = facade(
            scenario, lambda config, seed=0: 0.0, intensifier=facade.get_intensifier(scenario), logging_level=False, overwrite=True
        )
        self.worst, self.default = -math.inf, instance.default
        # The seed of the default's first measurement; others are made by SMAC3 where it repeats a trial.
        self.first = TrialInfo(self.encoded(instance.default), seed=0)
        self.info = None

    def ask(self) -> list[Config]:
        if self.info is None:
            self.info, self.first = self.first, None
            return [self.default]
        self.info = self.smac.ask()
        return [self.decoded(self.info.config)]

    def tell(self, values: list[float | None], remaining: int) -> None:
        [value] = values
        if value is None:
            # A crash needs a cost that its forest can compute with: the worst so far.
            crash = self.value_type(cost=self.worst, status=self.status.CRASHED)
            self.smac.tell(self.info, crash)
        else:
            self.worst = max(self.worst, value)
            self.smac.tell(self.info, self.value_type(cost=value))

    def recommend(self) -> Config | None:
        incumbent = self.smac.intensifier.get_incumbent()
        return None if incumbent is None else self.decoded(incumbent)

    @staticmethod
    def configuration_space(space: list[dict], seed: int):
        """Returns the space as SMAC3 wants it. Choices go by their place in the list."""
        import ConfigSpace as cs

        result = cs.ConfigurationSpace(seed=seed)
        for param in space:
            name, kind, log = param["name"], param["type"], param.get("log", False)
            if kind == "float":
                result.add(cs.UniformFloatHyperparameter(name, param["low"], param["high"], log=log))
            elif kind == "int":
                result.add(cs.UniformIntegerHyperparameter(name, param["low"], param["high"], log=log))
            else:
                result.add(cs.CategoricalHyperparameter(name, list(range(len(Smac.choices(param))))))
        by_name = {param["name"]: param for param in space}
        for param in space:
            if "when" in param:
                parent = by_name[param["when"]["param"]]
                places = [Smac.choices(parent).index(value) for value in param["when"]["in"]]
                result.add(cs.InCondition(result[param["name"]], result[parent["name"]], places))
        return result

    @staticmethod
    def choices(param: dict) -> list:
        return [False, True] if param["type"] == "bool" else param["choices"]

    def encoded(self, config: Config):
        import ConfigSpace as cs

        place = lambda param, value: value if param["type"] in ("float", "int") else Smac.choices(param).index(value)
        values = {param["name"]: place(param, config[param["name"]]) for param in self.space if param["name"] in config}
        return cs.Configuration(self.configspace, values=values)

    def decoded(self, configuration) -> Config:
        config: Config = {}
        values = dict(configuration)
        for param in self.space:
            name, kind = param["name"], param["type"]
            if name in values:
                value = values[name]
                config[name] = float(value) if kind == "float" else int(value) if kind == "int" else Smac.choices(param)[int(value)]
        return config


class Kloros:
    """`kloros tune --ask-tell`, which asks one by one where nobody says that more are measured at once."""

    program = "kloros"
    lot = 1

    def __init__(self, instance: Instance, budget: int) -> None:
        self.process = subprocess.Popen(
            [self.program, "tune", "--ask-tell"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        first = {
            "space": instance.space,
            "budget": budget,
            "batch": LOT,
            "parallel": self.lot,
            "seed": instance.seed,
            "default": instance.default,
            "direction": "minimize",
            "noisy": instance.noise > 0,
        }
        self.say(first)

    def say(self, line: dict) -> None:
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        self.heard = json.loads(self.process.stdout.readline())
        if "error" in self.heard:
            raise RuntimeError(self.heard["error"])

    def ask(self) -> list[Config]:
        return self.heard.get("ask", [])

    def tell(self, values: list[float | None], remaining: int) -> None:
        tell = [{"value": value, "status": "failed" if value is None else "ok"} for value in values]
        self.say({"tell": tell, "remaining": remaining})

    def recommend(self) -> Config | None:
        self.process.stdin.close()
        self.process.wait()
        return self.heard["best"]


class KlorosInLots(Kloros):
    """`kloros tune --ask-tell` where four are measured at once."""

    lot = LOT


TOOLS = {
    "kloros": Kloros,
    "optuna": Optuna,
    "smac": Smac,
    "random": Random,
    "kloros-lots": KlorosInLots,
    "optuna-one": OptunaOneByOne,
}
