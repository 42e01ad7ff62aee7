"""`plan models`: which models are known, and what one of them is made of."""

from typing import Annotated

import typer

from planner.command import AsJson, write_output


def models(
    name: Annotated[
        str | None, typer.Argument(help="Bundled name, hub id, folder or config.json.")
    ] = None,
    json: AsJson = False,
) -> None:
    """List the models and architectures that are known, or the parameters of NAME by part."""
    from planner.model_files import known_models, resolve_model
    from planner.report.json_ import as_json
    from planner.report.models import (
        catalogue_to_json,
        describe_catalogue,
        describe_model,
        model_to_json,
    )

    if name is None:
        catalogue = sorted(known_models(), key=lambda model: model.name.casefold())
        found = as_json(catalogue_to_json(catalogue)) if json else describe_catalogue(catalogue)
    else:
        model = resolve_model(name)
        found = as_json(model_to_json(model)) if json else describe_model(model)
    write_output(found)
