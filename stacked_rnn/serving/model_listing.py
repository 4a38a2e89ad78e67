"""The entry of a model in the list of models: its task and a short card."""

import dataclasses

from stacked_rnn import saved_models


@dataclasses.dataclass(frozen=True, eq=False)
class ListedModel:
    """A version of a model that is ready, or is loaded on the first request.

    Attributes:
        name, version: what it is served as.
        task: a name in `configs.TASKS`.
        fingerprint: see `Description`.
        created: modification time of its graph, in seconds since 1970.
        card: sentences that describe it.
        chat_template: the template of chats in its directory, or None.
    """

    name: str
    version: int
    task: str
    fingerprint: str | None
    created: int
    card: list[str]
    chat_template: str | None

    @classmethod
    def from_description(cls, name, version, description, **others):
        """Makes an entry from a `saved_models.Description`.

        Args:
            name, version: what it is served as.
            description: the metadata of the version.
            **others: the fields that a subclass adds.
        """
        path = description.path
        return cls(
            name=name,
            version=version,
            task=description.task,
            fingerprint=description.fingerprint,
            created=int((path / saved_models.GRAPH_FILE).stat().st_mtime),
            card=description.sentences(),
            chat_template=saved_models.chat_template(path),
            **others,
        )
