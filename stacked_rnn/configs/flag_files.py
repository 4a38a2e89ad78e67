"""Configurations as the text of a flag file, which `--flagfile` reads."""

import dataclasses


def user_settings(config_class) -> list[dataclasses.Field]:
    """Returns the fields that a user may set."""
    return [
        field
        for field in dataclasses.fields(config_class)
        if not field.metadata["is_internal"]
    ]


def is_switch(field) -> bool:
    """Returns whether a field is true, false or, perhaps, None."""
    return field.type in (bool, bool | None)


def to_flags(*configs, names=None, ignored=()) -> str:
    """Writes configurations as the text of a flag file: one flag per line.

    Args:
        *configs: the configurations.
        names: names of the settings to write; None: all.
        ignored: names of settings to leave out: those without effect, which a
            task refuses.
    """
    lines = []
    for config in configs:
        for field in user_settings(config):
            if field.name in ignored:
                continue
            if names is not None and field.name not in names:
                continue
            value = getattr(config, field.name)
            if isinstance(value, bool):
                lines.append(
                    f"--{field.name}" if value else f"--no{field.name}"
                )
            elif value is not None:
                lines.append(f"--{field.name}={value}")
    return "\n".join(lines) + "\n"
