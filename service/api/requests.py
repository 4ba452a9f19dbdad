"""The base of what operators send: an unknown field is an error, so that a misspelt setting is not its default."""

from pydantic import BaseModel, ConfigDict


class RequestModel(BaseModel):
    """The body of a request, JSON."""

    model_config = ConfigDict(extra="forbid")
