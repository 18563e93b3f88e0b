"""One run from plan to report: reuse what is there, else execute, check, record, and give it its name."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kit.errors
from kit.errors import Fault, KitError, ResultError, RunError
from kit.parts.pull import kit_home
from kit.result import Result
from kit.runner import claims, ledger, machine
from kit.runner.claims import Verdict
from kit.runner.execute import CACHE_LOG, EXECUTED, LIMIT_S, NotebookStoppedError, OnCell, execute, read_result
from kit.runner.kernel import signals_end_the_run
from kit.runner.machines import this_machine
from kit.runner.notebook import has_changed
from kit.runner.plan import Plan
from kit.runner.predict import note_kept, predict, why_not
from kit.runner.regressions import regressions
from kit.runner.resume import Journal, fix_of, journal, reason_of
from kit.runner.tidy import tidy
from kit.runner.watch import Cost

RESULT = "result.json"
REPORT = "report.html"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        path: Its folder.
        record: What ``run.json`` says.
        result: Its Result; None when the notebook left none.
        verdicts: Claims and budget, checked against the recipe as it is now.
        reused: Whether it was there before.
    """

    path: Path
    record: dict[str, Any]
    result: Result | None
    verdicts: tuple[Verdict, ...]
    reused: bool

    @property
    def passed(self) -> bool:
        """Return whether every claim holds and nothing has become worse; budgets do not count."""
        return all(verdict.passed for verdict in self.verdicts if verdict.kind in {"claim", "regression"})


@dataclass(frozen=True)
class Hooks:
    """What a caller wants to hear while a run goes on.

    Args:
        on_cell: Cells done, cells there are, and the heading above the next.
        say: One line for people.
    """

    on_cell: OnCell | None = None
    say: Callable[[str], None] = lambda _: None


def run(
    plan: Plan, *, out: Path, force: bool = False, limit_s: float | None = None,
    limit_gib: float | None = None, price_per_hour: float | None = None, hooks: Hooks | None = None,
) -> Run:  # fmt: skip
    """Carry out a plan, or return the run of the same digest that is already there.

    Args:
        plan: The plan.
        out: The folder of runs.
        force: Run again even if it is there.
        limit_s: Seconds after which the notebook is stopped; the recipe's, else four hours.
        limit_gib: Memory above which it is stopped, GiB; the recipe's, else none.
        price_per_hour: What the machine costs, in any currency; shown in the report.
        hooks: What to call meanwhile.

    Raises:
        RunError: the notebook did not reach its end, or the folder cannot be written or read.
        PartError: an input's part cannot be pulled.
    """
    hooks = hooks or Hooks()
    final = ledger.folder_of(out, plan.recipe.name, plan.digest)
    if ledger.is_whole(final) and not force:
        return _reused(final, plan, price_per_hour)
    with (
        signals_end_the_run(),
        ledger.locked(
            out.absolute(),
            plan.recipe.name,
            plan.digest,
            on_wait=lambda: hooks.say("Another kit run is at the same; waiting for it …"),
        ),
    ):
        if ledger.is_whole(final) and not force:
            return _reused(final, plan, price_per_hour)
        began = time.monotonic()
        _pull_parts(plan)
        with journal(plan, final, force=force) as kept, ledger.partial(final) as folder:
            if kept.sentence:
                hooks.say(kept.sentence)
            budget = plan.recipe.budget.get(plan.size, {})
            limits = (limit_s or budget.get("limit_s", LIMIT_S), limit_gib or budget.get("limit_gib"))
            settled = _Settled(*limits, price_per_hour, pulled_s=time.monotonic() - began)
            done = _fresh(plan, folder, final, settled, hooks=hooks, kept=kept)
            kept.done()
            if has_changed(plan.recipe.notebook):
                hooks.say(f"{plan.recipe.shown} changed while it ran: this is the run of what it was before.")
            return done


def _pull_parts(plan: Plan) -> None:
    """Get what the inputs need before a kernel starts, so that a missing network shows at once."""
    from kit.parts import pull

    for name in sorted({part for found in plan.inputs for part in found.parts}):
        pull.get(name)


@dataclass(frozen=True)
class _Settled:
    limit_s: float
    limit_gib: float | None
    price_per_hour: float | None
    pulled_s: float


def _fresh(plan: Plan, folder: Path, final: Path, settled: _Settled, *, hooks: Hooks, kept: Journal) -> Run:
    started = dt.datetime.now(dt.UTC)
    predicted = _predicted(plan, final.parents[1])
    try:
        cost = execute(
            plan.recipe.notebook,
            plan.values,
            into=folder,
            cwd=Path.cwd(),
            limit_s=settled.limit_s,
            limit_gib=settled.limit_gib,
            on_cell=_noted(hooks.on_cell, kept),
            env=kept.env(),
        )
        cost = dataclasses.replace(cost, wall_s=round(settled.pulled_s + cost.wall_s, 3))
        tidy(folder / EXECUTED, folder=folder, final=final)
        result = _with_relative_bundles(read_result(folder / EXECUTED), final)
    except NotebookStoppedError as error:
        kept.note(reason_of(error))
        tidy(folder / EXECUTED, folder=folder, final=final)
        raise _stopped(error, plan, ledger.keep_failed(folder, final, EXECUTED)) from error
    except ResultError as error:
        failed = ledger.keep_failed(folder, final, EXECUTED)
        raise RunError([*error.faults, Fault(plan.recipe.shown, f"left no good result; kept as {failed}")]) from error
    note_kept(plan, folder / CACHE_LOG)
    record = {**_record(plan, started, cost, settled.price_per_hour), "predicted": predicted}
    record["resumed"] = {name: value for name, value in kept.earlier.items() if name != "digests"} or None
    verdicts = _check(plan, result, record, final.parents[1])
    record["claims"] = [dataclasses.asdict(verdict) for verdict in verdicts]
    if result is not None:
        ledger.write_text(folder / RESULT, json.dumps(result.to_json(), indent=1))
    _publish(folder, record, result)
    ledger.settle(folder, final)
    return Run(final, record, result, verdicts, reused=False)


def _noted(on_cell: OnCell | None, kept: Journal) -> OnCell:
    """Return what is called at the start of each cell: what the caller wants, and a note of where the run is."""

    def call(done: int, total: int, title: str) -> None:
        kept.note("running", done, total)
        if on_cell is not None:
            on_cell(done, total, title)

    return call


def _predicted(plan: Plan, out: Path) -> dict[str, Any] | None:
    """Return what ``kit plan`` would say of this run on this machine now; None where it has no figures."""
    if why_not(plan):
        return None
    try:
        return predict(plan, this_machine(kit_home() / "plans", out, kept=True)).to_json()
    except (KitError, OSError):  # a formula that this value does not fit, or no cache: no reason not to run
        return None


def _record(plan: Plan, started: dt.datetime, cost: Cost, price: float | None) -> dict[str, Any]:
    return {
        "schema": ledger.SCHEMA,
        "recipe": plan.recipe.name,
        "about": plan.recipe.about,
        "notebook": plan.recipe.shown,
        "size": plan.size,
        "digest": plan.digest,
        "digests": dict(plan.digests),
        "parameters": json.loads(json.dumps(dict(plan.effective), default=str)),
        "injected": sorted(plan.values),
        "inputs": [dataclasses.asdict(found) for found in plan.inputs],
        "command": plan.command,
        "started": started.isoformat(timespec="seconds"),
        "wall_s": cost.wall_s,
        "peak_rss_gib": cost.peak_rss_gib,
        "kernel": f"cold: {cost.cold}" if cost.cold else "warm",
        "price_per_hour": price,
        "versions": machine.versions(),
        "machine": machine.describe(),
    }


def _check(plan: Plan, result: Result | None, record: dict[str, Any], out: Path) -> tuple[Verdict, ...]:
    budget = plan.recipe.budget.get(plan.size, {})
    return (
        *regressions(out, record, result),
        *claims.check(result, plan.recipe.expect.get(plan.size, ()), changed=plan.changed),
        *claims.check_budget(budget, wall_s=record["wall_s"], peak_rss_gib=record["peak_rss_gib"]),
    )


def _publish(folder: Path, record: dict[str, Any], result: Result | None) -> None:
    """Write everything that is derived from the executed notebook and the record."""
    from kit.runner.crate import write_crate
    from kit.runner.report import render

    ledger.write_text(folder / ledger.RECORD, json.dumps(record, indent=1))
    ledger.write_text(folder / REPORT, render(folder / EXECUTED, record, result))
    write_crate(folder, record, result)


def _reused(final: Path, plan: Plan, price: float | None) -> Run:
    """Return the run that is there, its claims checked against the recipe as it is now."""
    record = ledger.read_record(final)
    result = read_saved_result(final)
    verdicts = _check(plan, result, record, final.parents[1])
    now = {
        "about": plan.recipe.about,
        "size": plan.size,
        "claims": [dataclasses.asdict(verdict) for verdict in verdicts],
        "price_per_hour": price if price is not None else record.get("price_per_hour"),
    }
    if not (final / REPORT).exists() or any(record.get(key) != value for key, value in now.items()):
        record |= now
        _publish(final, record, result)
    return Run(final, record, result, verdicts, reused=True)


def read_saved_result(folder: Path) -> Result | None:
    """Return the Result that a run's folder holds; None when its notebook left none.

    Raises:
        RunError: the file cannot be read.
        ResultError: the file is not a Result.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        return Result.from_json(json.loads(path.read_text(encoding="utf-8")), where=str(path))
    except (OSError, ValueError) as error:
        raise RunError.of(str(path), f"cannot be read: {error}", f"remove {folder} and run again") from error


def _with_relative_bundles(result: Result | None, final: Path) -> Result | None:
    """Return the Result with bundles inside the run's folder named relative to it, so that the folder can move."""
    if result is None:
        return None
    bundles = tuple(
        Path(bundle).relative_to(final).as_posix() if Path(bundle).is_relative_to(final) else bundle
        for bundle in result.bundles
    )
    return dataclasses.replace(result, bundles=bundles)


def _stopped(error: NotebookStoppedError, plan: Plan, kept: Path | None) -> RunError:
    names = {
        name for name, found in vars(kit.errors).items() if isinstance(found, type) and issubclass(found, KitError)
    }
    what = f"raised {error.ename}:\n{error.evalue}" if error.ename in names else error.what
    where = f"{plan.recipe.shown}: {error.cell}" if error.cell else plan.recipe.shown
    lines = [f"Line: {error.line}"] if error.line else []
    if kept is not None:
        lines.append(f"Kept: {_short(kept)}, with every output until then")
    return RunError(Fault(where, what, fix_of(reason_of(error), plan), "\n  ".join(lines)))


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
