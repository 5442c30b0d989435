"""The one runner of weights and studies: `python -m assets.recipes NAME`."""

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from multiprocessing import active_children, get_context
from pathlib import Path

import torch

from course_lib import files, runtime
from course_lib.lessons.studies import ablation_table, photographs_table, pointing_table
from course_lib.tables import Table
from course_lib.training.remedies import REMEDIES, SUMMARY, evolution_table
from course_lib.training.remedies import SEEDS as REMEDY_SEEDS
from course_lib.world import DIFFICULTIES

from . import (
    ablation,
    capstone,
    codec,
    decoders,
    difficulty,
    dynamic,
    evolution,
    finer,
    ingredients,
    parts,
    photographs,
    pictures,
    shortcut,
    static,
)
from .common import workplace

__all__ = ["RECIPES", "Study", "Weights", "main", "make", "readme_tables"]


@dataclass(frozen=True)
class Weights:
    """How a shipped weight is made: `write(path)` trains, saves, returns scores on unseen drawings."""

    write: Callable[[Path], dict]
    minutes: int  # on two cores
    needs: tuple[str, ...] = ()  # weights that this one starts from
    seed: int = 20_000  # of what it draws, in the split "assets"


@dataclass(frozen=True)
class Study:
    """How a stored result is made: `run(**setting)` gives the rows of one setting."""

    run: Callable[..., list[dict]]
    settings: tuple[dict, ...]
    minutes: int  # of all settings on two cores
    processes: int = 1  # of one thread each, where a run is too small for more
    seed: int = 30_000


EXTRACTORS = ("static", "dynamic")

RECIPES: dict[str, Weights | Study] = {
    "static": Weights(static.write_static, 50),
    "dynamic": Weights(dynamic.write_dynamic, 45),
    "personality": Weights(ablation.write_personality, 20, EXTRACTORS),
    "lesson_tokens": Weights(ablation.write_lesson_tokens, 20, EXTRACTORS),
    "attributes": Weights(decoders.write_attributes, 12),
    "attributes_fine": Weights(finer.write_attributes_fine, 12, ("attributes",)),
    "parts": Weights(parts.write_parts, 15, seed=parts.SEED),
    "difficulty": Study(
        difficulty.learn_faces,
        tuple(
            {"difficulty": name, "faces": faces, "seed": seed}
            for name, seed, faces in product(DIFFICULTIES, difficulty.SEEDS, difficulty.SIZES)
        ),
        45,
    ),
    "ablation": Study(
        ablation.run_arm,
        tuple({"arm": arm} for arm in (*reversed(ablation.ARMS), *ablation.BASELINES)),
        30,
    ),
    "evolution": Study(
        evolution.run_remedy,
        tuple({"remedy": remedy, "seed": seed} for seed, remedy in product(REMEDY_SEEDS, REMEDIES)),
        75,
        processes=2,
    ),
    "ingredients": Study(
        ingredients.run_arm,
        tuple(
            {"arm": arm, "seed": seed} for seed, arm in product(ingredients.SEEDS, ingredients.ARMS)
        ),
        55,
        processes=2,
    ),
    "finer": Study(
        finer.run_model,
        (
            *({"model": name, "seed": seed} for seed in finer.SEEDS for name in finer.MODELS),
            {"model": finer.SHIPPED, "seed": 0},
        ),
        25,
        processes=2,
    ),
    "pointing": Study(
        decoders.run_decoder,
        tuple(
            {"decoder": decoder, "seed": seed}
            for decoder, seeds in decoders.SEEDS.items()
            for seed in range(seeds)
        ),
        25,
        processes=2,
    ),
    "photographs": Study(
        photographs.run_arm,
        (
            *({"arm": arm, "seed": 0} for arm in photographs.BASELINES),
            *(
                {"arm": arm, "seed": seed}
                for seed, arm in product(photographs.SEEDS, photographs.ARMS[2:])
            ),
        ),
        50,
    ),
    "shortcut": Study(shortcut.run_model, shortcut.SETTINGS, 15),
    "codec": Study(codec.score_clips, codec.SETTINGS, 2),
    "capstone": Study(
        capstone.run_arm,
        tuple({"arm": arm, "seed": seed} for seed, arm in product(capstone.SEEDS, capstone.ARMS)),
        10,
    ),
}


def make(name: str, folder: str | Path | None = None, add: bool = False) -> dict:
    """Make one weight or stored result again, in `folder` instead of assets/; a run that was cut off
    goes on.

    With `add`, a study runs only the settings that the stored result lacks. Returns what stands in
    the manifest or the stored result. Raises ValueError for an unknown name, FileNotFoundError if a
    weight that the recipe starts from is missing.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    if isinstance(recipe, Weights):
        return _make_weights(name, recipe, Path(folder) if folder else runtime.assets("weights"))
    target = Path(folder) if folder else runtime.assets("results")
    if add:
        _take_over(name, recipe, files.read_json(runtime.assets(f"results/{name}.json")))
    return _make_result(name, recipe, target)


def _make_weights(name: str, recipe: Weights, folder: Path) -> dict:
    for needed in recipe.needs:
        runtime.assets(f"weights/{needed}.safetensors")
    runtime.setup(recipe.seed, quiet=True)
    started, path = time.time(), folder / f"{name}.safetensors"
    scores = recipe.write(path)
    entry = {
        "file": path.name,
        "sha256": files.sha256(path),
        "bytes": path.stat().st_size,
        "recipe": name,
        "seed": recipe.seed,
        "minutes": round((time.time() - started) / 60, 1),
        "torch": torch.__version__,
        "scores": {key: round(float(value), 4) for key, value in scores.items()},
    }
    manifest = folder / "manifest.json"
    entries = files.read_json(manifest) if manifest.exists() else {}
    files.write_json(manifest, entries | {name: entry})
    return entry


def _setting_paths(name: str, study: Study) -> list[Path]:
    """Where the rows of each setting wait until the study is done."""
    return [workplace(name) / f"setting_{number}.json" for number in range(len(study.settings))]


def _take_over(name: str, study: Study, stored: dict) -> None:
    """Put the rows of a stored result where those of finished settings are."""
    seconds = 60 * stored["minutes"] * study.processes / len(stored["rows"])
    for setting, path in zip(study.settings, _setting_paths(name, study), strict=True):
        rows = [row for row in stored["rows"] if row.items() >= setting.items()]
        if rows and not path.exists():
            files.write_json(path, {"rows": rows, "seconds": seconds * len(rows)})


def _make_result(name: str, study: Study, folder: Path) -> dict:
    paths = _setting_paths(name, study)
    missing = [
        (study, setting, path)
        for setting, path in zip(study.settings, paths, strict=True)
        if not path.exists()
    ]
    for count, _ in enumerate(_finished(study.processes, missing), len(paths) - len(missing) + 1):
        print(f"{name}: {count} of {len(paths)} settings", flush=True)
    settings = [files.read_json(path) for path in paths]
    result = {
        "study": name,
        "seed": study.seed,
        "torch": torch.__version__,
        "minutes": round(sum(one["seconds"] for one in settings) / 60 / study.processes, 1),
        "rows": [row for one in settings for row in one["rows"]],
    }
    files.write_json(folder / f"{name}.json", result)
    shutil.rmtree(workplace(name))
    return result


def _finished(processes: int, settings: list[tuple]):
    """Run the settings, in so many processes, and say whenever one is done."""
    if processes == 1:
        yield from (_run_setting(*setting) for setting in settings)
        return
    others = set(active_children())
    pool = ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,))
    try:
        for part in as_completed([pool.submit(_run_setting, *setting) for setting in settings]):
            yield part.result()  # raises what the process raised
    except BaseException:  # Ctrl-C too: nobody waits for what is not done
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(active_children()) - others:
            process.terminate()
        raise
    pool.shutdown()


def _run_setting(study: Study, setting: dict, path: Path) -> None:
    """Run one setting and write its rows, so that a study that is cut off does not run it again."""
    runtime.setup(study.seed, quiet=True)
    started = time.time()
    rows = [setting | row for row in study.run(**setting)]
    files.write_json(path, {"rows": rows, "seconds": time.time() - started})


# ---- the command ---------------------------------------------------------------------------------


def readme_tables() -> dict[str, Table]:
    """The tables of the README by recipe, from the manifest and the stored results."""
    manifest = files.read_json(runtime.assets("weights/manifest.json"))
    rows = {
        name: files.read_json(runtime.assets(f"results/{name}.json"))["rows"]
        for name, recipe in RECIPES.items()
        if isinstance(recipe, Study)
    }
    return {
        "personality": ablation.personality_table(manifest["personality"]["scores"]),
        "ablation": ablation_table(rows["ablation"]),
        "difficulty": difficulty.difficulty_table(rows["difficulty"]),
        "evolution": evolution_table(rows["evolution"], SUMMARY),
        "pointing": pointing_table(rows["pointing"]),
        "ingredients": ingredients.ingredients_table(rows["ingredients"]),
        "finer": finer.finer_table(rows["finer"]),
        "shortcut": shortcut.shortcut_table(rows["shortcut"]),
        "photographs": photographs_table(rows["photographs"]),
        "capstone": capstone.capstone_table(rows["capstone"]),
        "parts": parts.parts_table(manifest["parts"]["scores"]),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 2 bad input, 130 stopped with Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m assets.recipes", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="weights, stored results, `all` of them, the README's `tables` or its `pictures`; "
        "without a name they are listed",
    )
    parser.add_argument("--folder", help="where to write instead of assets/")
    parser.add_argument(
        "--add", action="store_true", help="of a study, run only what the stored result lacks"
    )
    celeba = parser.add_argument_group(
        "photographs", "the comparison of the recipe `photographs` on a copy of CelebA"
    )
    celeba.add_argument("--celeba", metavar="FOLDER", help="CelebA's folder, in either layout")
    celeba.add_argument("--minutes", type=float, default=10, help="CPU minutes a model (10)")
    celeba.add_argument("--seeds", type=int, default=1, help="how many (1)")
    celeba.add_argument(
        "--output", default="results/photographs.json", help="the rows, written as they come"
    )
    options = parser.parse_args(arguments)
    try:
        if options.celeba:
            if options.names != ["photographs"]:
                raise ValueError(
                    f"--celeba was given with {options.names}; it belongs to `photographs` alone"
                )
            photographs.learn_celeba(options.celeba, options.output, options.minutes, options.seeds)
            return 0
        for name in options.names:
            _do(name, options.folder, options.add)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not options.names:
        print(_listing())
    return 0


def _listing() -> str:
    lines = []
    for name, recipe in RECIPES.items():
        kind = f"weights/{name}.safetensors"
        if isinstance(recipe, Study):
            kind = f"results/{name}.json, {len(recipe.settings)} settings"
        lines.append(f"{name:16} about {recipe.minutes} minutes on two cores: {kind}")
    hours = sum(recipe.minutes for recipe in RECIPES.values()) / 60
    lines.append(f"{'all':16} about {hours:.1f} hours")
    lines.append("tables           what the README shows of them, as Markdown")
    lines.append("pictures         the README's")
    return "\n".join(lines)


def _do(name: str, folder: str | None, add: bool = False) -> None:
    if name == "tables":
        for table in readme_tables().values():
            print(f"{table.markdown()}\n\n{table.caption}".rstrip(), end="\n\n")
    elif name == "pictures":
        pictures.write_pictures(Path(folder) if folder else runtime.assets("pictures"))
    elif name == "all":
        for recipe in RECIPES:
            _do(recipe, folder, add)
    else:
        entry = make(name, folder, add)
        what = f"{len(entry['rows'])} rows" if "rows" in entry else f"scores {entry['scores']}"
        print(f"{name}: made in {entry['minutes']} minutes; {what}")
