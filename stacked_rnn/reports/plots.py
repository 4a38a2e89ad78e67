"""Plots, saved as PNG if matplotlib is installed."""

import io
import math

from stacked_rnn.utils import files


def draw_curves(history, steps_per_epoch, path) -> bool:
    """Plots losses, metrics, learning rate and gradient norm by epoch.

    Args:
        history: list with a dict of results per validation, as in history.csv.
        steps_per_epoch: number of steps.
        path: path of the PNG.

    Returns:
        Whether it was drawn: False if matplotlib is not installed.
    """
    try:
        from matplotlib import figure, ticker
    except ImportError:
        return False
    picture = figure.Figure(figsize=(10, 3.2), layout="constrained")
    panels = {
        "nats": {"loss": "training", "val_loss": "validation"},
        "accuracy": {"accuracy": "training", "val_accuracy": "validation"},
        "exact match": {
            "exact_match": "training",
            "val_exact_match": "validation",
        },
        "learning rate": {"learning_rate": ""},
        "gradient norm": {"gradient_norm": ""},
    }
    panels = {
        title: curves
        for title, curves in panels.items()
        if not curves.keys().isdisjoint(history[0])
    }
    epochs = [  # the rows of earlier versions have no step
        row["step"] / steps_per_epoch if "step" in row else row["epoch"] + 1
        for row in history
    ]
    for axes, (title, curves) in zip(
        picture.subplots(1, len(panels)), panels.items()
    ):
        for name, label in curves.items():
            if name in history[0]:
                values = [row[name] for row in history]
                axes.plot(epochs, values, marker=".", label=label)
        if len(curves) > 1:
            axes.legend()
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    return _save(picture, path)


def draw_classification(result, labels, path) -> bool:
    """Plots the confusion matrix, if any, and the calibration of a classifier.

    Args:
        result: the dict that `SavedClassifier.evaluate` returned.
        labels: names of the classes.
        path: path of the PNG.

    Returns:
        Whether it was drawn: False if matplotlib is not installed.
    """
    try:
        from matplotlib import figure
    except ImportError:
        return False
    confusion = result.get("confusion")
    picture = figure.Figure(figsize=(10, 4.5), layout="constrained")
    *left, right = picture.subplots(
        1, 1 + (confusion is not None), squeeze=False
    )[0]
    for axes in left:
        image = axes.imshow(confusion, cmap="Blues", vmin=0)
        picture.colorbar(image, ax=axes, shrink=0.8)
        # Labels with two dollar signs are no formulas.
        axes.set_xticks(
            range(len(labels)), labels, rotation=90, parse_math=False
        )
        axes.set_yticks(range(len(labels)), labels, parse_math=False)
        axes.set(title="confusion matrix", xlabel="predicted", ylabel="actual")
        if len(labels) <= 12:
            half = max(map(max, confusion)) / 2
            for row, counts in enumerate(confusion):
                for column, count in enumerate(counts):
                    axes.text(
                        column, row, f"{count:,}", ha="center", va="center",
                        color="white" if count > half else "black",
                    )  # fmt: skip
    calibration = result["calibration"]
    right.plot([0, 1], [0, 1], "--", color="gray", label="perfect")
    right.plot(
        [row["confidence"] for row in calibration],
        [row["accuracy"] for row in calibration],
        marker="o",
        label=f"error {result['calibration_error']:.3f}",
    )
    right.set(title="calibration", xlabel="confidence", ylabel="accuracy")
    right.legend()
    return _save(picture, path)


def draw_attention(maps, path) -> bool:
    """Plots the attention of a seq2seq model, one map per text.

    Args:
        maps: list of (source tokens, output tokens, attention): two lists of
            strings, in which "" is the end of the text, and an array
            [output, source].
        path: path of the PNG.

    Returns:
        Whether it was drawn: False if matplotlib is not installed.
    """
    picture = _attention_figure(maps)
    return picture is not None and _save(picture, path)


def attention_png(tokens_and_weights) -> bytes | None:
    """Plots one map of `draw_attention`, to show in a notebook.

    Args:
        tokens_and_weights: source tokens, output tokens, attention.

    Returns:
        The PNG; None if matplotlib is not installed.
    """
    picture = _attention_figure([tokens_and_weights])
    if picture is None:
        return None
    file = io.BytesIO()
    picture.savefig(file, format="png", dpi=100)
    return file.getvalue()


def _attention_figure(maps):
    """The figure of `draw_attention`; None if matplotlib is missing."""
    try:
        from matplotlib import figure
    except ImportError:
        return None
    inches_per_token = 0.18
    shapes = [attention.shape for _, _, attention in maps]
    picture = figure.Figure(
        figsize=(
            1.5 + inches_per_token * max(columns for _, columns in shapes),
            sum(1.2 + inches_per_token * rows for rows, _ in shapes),
        ),
        layout="constrained",
    )
    all_axes = picture.subplots(
        len(maps), 1, squeeze=False, height_ratios=[rows for rows, _ in shapes]
    )
    for (axes,), (text_tokens, output_tokens, attention) in zip(all_axes, maps):
        axes.imshow(attention, cmap="Blues", vmin=0, vmax=1, aspect="equal")
        for axis, tokens in (
            (axes.xaxis, text_tokens), (axes.yaxis, output_tokens)
        ):  # fmt: skip
            labels = [token.replace(" ", "␣") or "end" for token in tokens]
            axis.set_ticks(range(len(tokens)), labels, parse_math=False)
        axes.xaxis.tick_top()
        axes.tick_params(length=0, labelsize=7)
        if max(map(len, text_tokens)) > 1:
            axes.tick_params("x", rotation=90)
    return picture


def draw_trials(trials, info, logarithmic, path) -> bool:
    """Plots the trials of a search as lines over parallel axes.

    Each axis is a setting, the last one the result with the best at the top.
    The darker a line, the better is its trial; the thick one is the best.

    Args:
        trials: list of `training.search.Trial`, the best first; failed ones are
            left out.
        info: the `TaskInfo`.
        logarithmic: names of the settings with a logarithmic axis.
        path: path of the PNG.

    Returns:
        Whether it was drawn: False if matplotlib is not installed.
    """
    try:
        from matplotlib import colormaps, figure
    except ImportError:
        return False
    trials = [trial for trial in trials if not trial.error]
    quality = info.quality.replace("_", " ")
    columns = {
        name: [trial.values[name] for trial in trials]
        for name in trials[0].values
    }
    columns[quality] = [trial.quality for trial in trials]
    picture = figure.Figure(
        figsize=(max(6, 1.8 * len(columns)), 4), layout="constrained"
    )
    axes = picture.subplots()
    heights = []
    for x, (name, values) in enumerate(columns.items()):
        places, ticks = _places(values, name in logarithmic)
        if name == quality and not info.is_share:
            places = [1 - place for place in places]
            ticks = [(1 - place, label) for place, label in ticks]
        heights.append(places)
        axes.axvline(x, color="gray", linewidth=0.8)
        for place, label in ticks:
            axes.annotate(
                label, (x, place), (4, 0), textcoords="offset points",
                va="center", fontsize=8, zorder=9,
                bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0,
                      "pad": 1},
            )  # fmt: skip
    colors = colormaps["viridis"]
    for rank in reversed(range(len(trials))):  # the best one on top
        axes.plot(
            [places[rank] for places in heights],
            color=colors(rank / len(trials)),
            linewidth=1.2 if rank else 3,
        )
    axes.set_xticks(range(len(columns)), columns)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.set_xlim(-0.2, len(columns) - 0.5)
    axes.spines[:].set_visible(False)
    return _save(picture, path)


def _places(values, is_logarithmic):
    """Places values between 0 and 1 on an axis.

    Returns:
        The place of each value, and the ticks, a list of (place, label).
    """
    is_number = all(
        isinstance(value, int | float) and not isinstance(value, bool)
        for value in values
    )
    distinct = sorted(set(values))
    low, high = distinct[0], distinct[-1]
    if not is_number or low == high:
        last = max(1, len(distinct) - 1)
        where = {value: index / last for index, value in enumerate(distinct)}
        return [where[value] for value in values], [
            (place, str(value).lower()) for value, place in where.items()
        ]
    scale = math.log if is_logarithmic else float
    places = [
        (scale(value) - scale(low)) / (scale(high) - scale(low))
        for value in values
    ]
    shown = [low, high]
    if len(distinct) <= 5:
        shown = distinct
    return places, [
        (
            (scale(value) - scale(low)) / (scale(high) - scale(low)),
            f"{value:.4g}",
        )
        for value in shown
    ]


def _save(picture, path) -> bool:
    with files.whole_file(path) as file:
        picture.savefig(file, format="png", dpi=150)
    return True
