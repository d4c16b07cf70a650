"""How handlers answer: JSON as the services gave it, and its shape for the OpenAPI page only.

Shapes are not enforced here: a status that lacks one field is worth more than an error in its place.
`tests/unit/control` holds the shapes against the fake, and the daemon's own tests against the real one.
"""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

from synd.control import contract


def shape(model: Any, status: int = 200) -> dict[str, Any]:
    """Keywords of a route decorator that tell OpenAPI what it answers."""
    return {
        "response_model": None,
        "status_code": status,
        "responses": {
            status: {"model": model},
            "default": {"model": contract.Problem, "description": "Any error, as a problem body"},
        },
    }


def answer(value: object, status: int = 200) -> JSONResponse:
    return JSONResponse(value, status_code=status)


def accepted(job: contract.Job) -> JSONResponse:
    """202: the work has started, and where to ask for it."""
    return JSONResponse(job, status_code=202, headers={"Location": f"{contract.JOBS}/{job['id']}"})
