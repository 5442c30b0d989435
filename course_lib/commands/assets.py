"""Make what is shipped again."""

from pathlib import Path

from .. import files, runtime
from ..parts_recipe import parts_table
from ..recipes import RECIPES, make, score_table, write_pictures
from ..studies import STUDIES, run_study
from .settings import Assets

__all__ = ["assets"]


def assets(settings: Assets) -> None:
    """Run one recipe or study, or all of them; without a name, list them."""
    name, folder, jobs = settings.name, settings.folder or None, RECIPES | STUDIES
    if name == "scores":
        shipped = runtime.assets("weights")
        print(score_table(shipped))
        return print(
            f"\n{parts_table(files.read_json(shipped / 'manifest.json')['parts']['scores'])}"
        )
    if name == "pictures":
        return write_pictures(Path(folder) if folder else runtime.assets("pictures"))
    if not name and not settings.all:
        for key, job in jobs.items():
            print(f"{key:12} about {job.minutes} minutes on two cores")
        return None
    if settings.all:
        hours = sum(job.minutes for job in jobs.values()) / 60
        print(f"making {', '.join(jobs)}: about {hours:.1f} hours on two cores")
    elif name not in jobs:
        raise ValueError(f"no recipe {name!r}; choose one of {', '.join(jobs)}, pictures or scores")
    for key in jobs if settings.all else (name,):
        if key in STUDIES:
            result = run_study(key, folder)
            print(f"{key}: {len(result['rows'])} rows in {result['minutes']} minutes")
        else:
            entry = make(key, folder)
            print(
                f"{key}: {entry['bytes'] / 1e6:.1f} MB in {entry['minutes']} minutes; "
                + ", ".join(f"{score} {value}" for score, value in entry["scores"].items())
            )
    return None
