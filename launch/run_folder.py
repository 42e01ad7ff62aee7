"""The run folder: all files of a run, written whole or not at all."""

import errno
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from convert.scripts import hf_to_mcore_sh, mcore_to_hf_sh
from launch.arguments import check_runnable
from launch.dlc import job_json
from launch.expectations import preflight_files
from launch.readme import readme
from launch.text import fill
from launch.training import TEMPLATES, node_env_sh, train_sh, train_yaml
from planner.errors import UsageError
from planner.run import Run, read_run
from planner.site import Site, load_site, with_absolute_paths

Files = dict[str, str]
"""Names, one of them in a folder of its own, and contents; those that end in .sh can be run."""


def render(run: Run, folder: Path) -> Files:
    """All files of a run folder but run.json. `folder` is where it lies.

    Raises UsageError: run.needs, run.bad_path, dlc.too_large.
    """
    check_runnable(run)
    on_nodes = run.site.run_folder or str(folder.absolute())
    files: dict[str, str | None] = {
        "README.md": readme(run),
        "convert_hf_to_mcore.sh": hf_to_mcore_sh(run),
        "train.sh": train_sh(run),
        "train.yaml": train_yaml(run),
        "convert_mcore_to_hf.sh": mcore_to_hf_sh(run),
        "node_env.sh": node_env_sh(run),
        "on_host.sh": fill(TEMPLATES / "on_host.sh"),
        "job.json": job_json(run, on_nodes),
        **preflight_files(run),
    }
    return {name: text for name, text in files.items() if text is not None}


def run_json(run: Run) -> str:
    """The content of run.json."""
    return json.dumps(run.to_json(), indent=2) + "\n"


def write_run_folder(run: Run, folder: Path) -> Files:
    """Writes a new run folder and gives its files. It appears whole, by a rename, or not at all.

    Raises UsageError: run.needs, run.bad_path, dlc.too_large, run.folder_exists,
    run.folder_unwritable.
    """
    files = {"run.json": run_json(run), **render(run, folder)}
    if os.path.lexists(folder):
        raise UsageError("run.folder_exists", path=folder)
    partial = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        partial.chmod(0o755)
        for name, text in files.items():
            _write(partial / name, text)
        partial.rename(folder)
    except OSError as error:
        raise _unwritable(folder, error) from None
    finally:
        if partial is not None and partial.exists():
            shutil.rmtree(partial)
    return files


def render_again(folder: Path, site: Path | None = None) -> Files:
    """Writes the files of an existing run folder again, from its run.json, each whole or not.

    With a site file, for that site, which run.json then holds; a model and data that it does not
    name stay. Files that the run no longer has are taken away; others are left alone.
    Raises UsageError: those of `read_run`, `load_site` and `render`, run.folder_unwritable.
    """
    run = read_run(folder)
    if site is not None:
        run = replace(run, site=_moved(run.site, with_absolute_paths(load_site(site))))
    files = render(run, folder)
    if site is not None:
        files["run.json"] = run_json(run)
    optional = {"train.yaml"}
    try:
        for name, text in files.items():
            path = folder / name
            partial = path.with_name(f".partial.{path.name}")
            _write(partial, text)
            partial.replace(path)
        for name in optional - files.keys():
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None
    return files


def _moved(before: Site, after: Site) -> Site:
    """The new site, with the model and the data of the one before where it has none."""
    return replace(
        after,
        model_path=after.model_path or before.model_path,
        dataset=after.dataset or before.dataset,
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    # surrogateescape: a path of the user's need not be UTF-8.
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    path.chmod(0o755 if path.suffix == ".sh" else 0o644)


def _unwritable(folder: Path, error: OSError) -> UsageError:
    reason = (error.strerror or str(error)).lower()
    if isinstance(error, FileExistsError):  # mkdir of what is there, and no folder
        reason = os.strerror(errno.ENOTDIR).lower()
    return UsageError("run.folder_unwritable", path=folder, reason=reason)
