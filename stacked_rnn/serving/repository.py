"""The models that are served: found in a directory, loaded, replaced.

One thread looks and loads (`Repository.update`), any thread asks. What others
read is never changed in place: it is replaced whole.
"""

import contextlib
import dataclasses
import functools
import gc
import logging
import math
import os
import pathlib
import threading
import time

import tensorflow as tf

from stacked_rnn import inference, metrics, saved_models, version_changes
from stacked_rnn.configs import UserError
from stacked_rnn.serving import memory, scheduler, top_logprobs

_log = logging.getLogger(__name__)

_TRAINED = (
    "Trained on {corpus}: {characters:,} characters, {epochs:g} epoch(s)."
)
# With --max_loaded, a model stays for so many seconds after a request: whoever
# waited for it gets it.
_STAY_SECONDS = 1.0
# After so many seconds without one that is idle, the model asked for least
# recently takes no more texts.
_PATIENCE_SECONDS = 5.0


class NotReadyError(Exception):
    """A model is there, but it is not loaded yet.

    Attributes:
        is_on_demand: whether it is loaded because somebody asks for it: the
            request should ask again until it is there. False while the server
            starts, or where the model has just appeared.
    """

    def __init__(self, name, is_on_demand):
        super().__init__(
            f"The model {name!r} is being loaded: try again in a few seconds"
        )
        self.is_on_demand = is_on_demand


@dataclasses.dataclass(frozen=True, eq=False)
class Listed:
    """A version of a model, ready or to be loaded when it is asked for.

    Attributes:
        name, version: of it.
        task: what it is for, as `--task` has it.
        created: time stamp of its files, seconds since 1970.
        card: sentences on what it is.
    """

    name: str
    version: int
    task: str
    created: int
    card: list[str]


@dataclasses.dataclass(frozen=True, eq=False)
class Served(Listed):
    """A version of a model, ready.

    Attributes:
        description: the `saved_models.Description` of its directory.
        model: what `inference.load` returned.
        batcher: a `scheduler.Batcher` over it; None: it generates nothing.
    """

    description: saved_models.Description
    model: inference.LoadedModel
    batcher: scheduler.Batcher | None

    @property
    def is_idle(self) -> bool:
        """Whether no text grows or waits."""
        batcher = self.batcher
        return not (batcher and (batcher.num_waiting or batcher.num_active))

    @property
    def is_compiled(self) -> bool:
        """Whether XLA has done its part, or has none in it."""
        return not self.batcher or self.batcher.is_compiled.is_set()

    def close(self, seconds=None) -> None:
        """Takes no more texts; see `scheduler.Batcher.close`."""
        if self.batcher:
            self.batcher.close(seconds)

    @functools.cached_property
    def rank(self):
        """See `top_logprobs.rank_function`."""
        return top_logprobs.rank_function(self.model)

    def prompt(self, token_ids, scored):
        """A prompt as the answer may need it.

        Args:
            token_ids: int32 [tokens].
            scored: whether log p is wanted.

        Returns:
            Its text, the bytes of its tokens, and log p of each: None for the
            first, and for all where they are not wanted.
        """
        tokens = self.model.token_bytes[token_ids].tolist()
        log_probs = [None] * len(tokens)
        if scored and len(tokens) > 1:
            functions = self.model.functions
            log_probs[1:] = (
                -metrics.nats_of_text(
                    functions.score_window,
                    token_ids,
                    functions.initial_states(1),
                    progress=lambda done: None,
                )
            ).tolist()
        return b"".join(tokens).decode("utf-8", "replace"), tokens, log_probs


@dataclasses.dataclass(frozen=True)
class _Refused:
    """Why a version was not loaded, and its files as they were then."""

    message: str
    stamp: frozenset


class Repository:
    """The models below a directory, the highest version of each that loads.

    A directory that cannot be read is named in the log once, and the others
    are served. A version that cannot be loaded is refused, and tried again when
    its files change; the one below it is served. A model whose directory is
    gone is served on: what removes it is a new start.

    Args:
        saved_model: a version directory, the directory of a model's versions,
            or one with several of these; empty: saved_models/.
        model_name: what a single model is called; empty: as its directory.
        deliver, max_waiting, jit_compile: see `scheduler.Batcher`.
        max_loaded: most models that are loaded at a time; 0: all. The others
            are loaded when they are asked for, in the place of those that were
            asked for least recently. A new version is loaded beside the one
            that it replaces.

    Attributes:
        is_settled: whether the first `update` is through: each model that was
            there has been loaded or refused, or waits to be asked for.

    Raises:
        UserError: there is no model.
    """

    def __init__(
        self,
        saved_model,
        model_name,
        deliver,
        max_waiting,
        jit_compile,
        max_loaded=0,
    ):
        self._root = pathlib.Path(saved_model or "saved_models")
        self._model_name = model_name
        self._deliver, self._max_waiting = deliver, max_waiting
        self._jit_compile = jit_compile
        self._max_loaded = max_loaded or math.inf
        self.is_settled = False
        self._versions = {}  # name -> directories, the highest version first
        self._listed = {}  # directory -> Listed
        self._served = {}  # name -> Served
        self._refused = {}  # (name, version) -> _Refused
        self._loading = None  # (name, version)
        self._wanted = {}  # names that somebody waits for, as they were asked
        self._asked = {}  # name -> time.monotonic() of the last request
        self._besides = set()  # what has a thread and is not served any more
        self._has_garbage = False
        self._noted = {}  # place -> error that the log was told of
        self._stopping, self._woken = threading.Event(), threading.Event()
        self._threads = {}  # what they do -> the last one that did it
        if not os.path.isdir(self._root):
            raise UserError(
                f"--saved_model={self._root}: no such directory: train.py "
                "exports a model there"
            )
        errors = {}
        try:
            self._is_of_one_model = bool(saved_models.find_versions(self._root))
            found = self._find(errors)
        except OSError as error:
            raise UserError(
                f"--saved_model={self._root}: cannot be read "
                f"({error.strerror}): check its permissions"
            ) from error
        self._note(errors)
        if not found:
            raise UserError(
                f"--saved_model={self._root}: neither a SavedModel nor a "
                "directory of some: there is no saved_model.pb below it"
            )
        if model_name and len(found) > 1:
            raise UserError(
                f"--model_name={model_name}: there are several models in "
                f"{self._root}, named as their directories: "
                + ", ".join(sorted(found))
            )
        if model_name and not self._is_of_one_model:
            (name,) = found
            self._root, self._is_of_one_model = self._root / name, True
            found = self._find(errors)
        self._versions = found

    # For any thread -----------------------------------------------------------

    def __getitem__(self, name) -> Served:
        """The model of a name, for a request.

        Raises:
            NotReadyError: it is not loaded yet.
            KeyError: there is none, or all its versions were refused.
        """
        if served := self._served.get(name):
            self._asked[name] = time.monotonic()
            return served
        if not self._candidates(name):
            raise KeyError(name)
        has_places = self._max_loaded < math.inf
        if has_places:
            self._asked[name] = time.monotonic()
            self._wanted.setdefault(name)
            self._woken.set()
        raise NotReadyError(name, has_places and self.is_settled)

    def __contains__(self, name) -> bool:
        """Whether a model of this name was found, ready or not."""
        return name in self._versions or name in self._served

    def __iter__(self):
        """Those that are ready, by name."""
        return iter(sorted(self._served.values(), key=lambda one: one.name))

    def listed(self):
        """Those that can be asked for, by name: ready, or loaded on demand."""
        found = {
            name: self._listed.get(path)
            for name in self._versions
            for path in self._candidates(name)[:1]
        }
        found |= self._served
        return iter([found[name] for name in sorted(found) if found[name]])

    def describe(self, name) -> Listed:
        """One of `listed`: asking for this loads nothing.

        Raises:
            NotReadyError, KeyError: as `repository[name]` does.
        """
        if served := self._served.get(name):
            return served
        if not (paths := self._candidates(name)):
            raise KeyError(name)
        if not (listed := self._listed.get(paths[0])):
            raise NotReadyError(name, False)
        return listed

    def states(self, name) -> dict:
        """version -> (state, error code, message), as TensorFlow Serving has.

        Raises:
            KeyError: there is no such model.
        """
        states = {
            version: ("END", "INVALID_ARGUMENT", refused.message)
            for (other, version), refused in self._refused.items()
            if other == name
        }
        served, loading = self._served.get(name), self._loading
        if served:
            states[served.version] = ("AVAILABLE", "OK", "")
        elif paths := self._candidates(name):
            waits = self._max_loaded == math.inf or name in self._wanted
            state = "LOADING" if waits else "START"
            states[_number(paths[0])] = (state, "OK", "")
        if loading and loading[0] == name:
            states[loading[1]] = ("LOADING", "OK", "")
        if not states:
            raise KeyError(name)
        return states

    def _candidates(self, name) -> list:
        """Directories of the versions that were not refused, highest first."""
        return [
            path
            for path in self._versions.get(name, ())
            if (name, _number(path)) not in self._refused
        ]

    # For the thread that loads ------------------------------------------------

    def update(self) -> None:
        """Looks once, loads what is new, and lets go of what it replaces.

        Requests go to the old version until the new one is ready. Models that
        somebody waits for come first.
        """
        if self._has_garbage:
            self._has_garbage = False
            _settle(everything=True)
        self._look()
        tried = set()
        while not self._stopping.is_set():
            if not (target := self._next(tried)):
                self.is_settled = True
                self._start_compiling()
                return
            tried.add(target)
            self._bring(*target)

    def watch(self, seconds) -> None:
        """Updates from now on, so often, and whenever a model is wanted."""

        def keep():
            said = ""  # of the last update
            while not self._stopping.is_set():
                self._woken.wait(seconds)
                self._woken.clear()
                try:
                    self.update()
                except Exception as error:  # whatever it is, it may pass
                    if repr(error) != said:
                        _log.exception("the search for versions: it goes on")
                    said = repr(error)
                else:
                    said = ""

        self._start("update", keep)

    def _start(self, what, target) -> None:
        thread = threading.Thread(target=target, daemon=True)
        self._threads[what] = thread
        thread.start()

    def _start_compiling(self) -> None:
        """Has XLA compile, one model after the other, where it has not yet."""
        last = self._threads.get("compile")
        if not self._jit_compile or (last and last.is_alive()):
            return
        if any(not one.is_compiled for one in self):
            self._start("compile", self._compile)

    def _compile(self) -> None:
        while not self._stopping.is_set():
            served = next((one for one in self if not one.is_compiled), None)
            if not served:
                return
            before, begin = memory.resident_bytes(), time.monotonic()
            served.batcher.compile()
            memory.trim()
            seconds = time.monotonic() - begin
            if seconds >= 1:  # else it shares what another one has
                _log.info(
                    "%s version %s is compiled in %.0f s%s",
                    served.name,
                    served.version,
                    seconds,
                    _growth(before),
                )

    def stop(self) -> None:
        """Loads nothing more; the model that is being loaded is the last."""
        self._stopping.set()
        self._woken.set()

    def close(self, seconds) -> None:
        """Takes no more texts, and gives those that are here so long.

        What TensorFlow is at meanwhile, the load of a model or a part of what
        XLA compiles, ends too: a process that exits under it crashes.
        """
        self.stop()
        closing = [
            threading.Thread(target=served.close, args=[seconds])
            for served in (*self._served.values(), *list(self._besides))
        ]
        for thread in closing:
            thread.start()
        for thread in (*closing, *list(self._threads.values())):
            thread.join()

    def _look(self) -> None:
        """Takes note of what is in the directory now."""
        errors = {}
        try:
            self._versions = self._find(errors)
        except OSError as error:
            errors[self._root] = error
        self._note(errors)
        present = {
            (name, _number(path))
            for name, paths in self._versions.items()
            for path in paths
        }
        self._refused = {
            key: value for key, value in self._refused.items() if key in present
        }
        if self._max_loaded < math.inf:
            self._list()

    def _list(self) -> None:
        """Describes the models that are loaded when somebody asks."""
        listed = {}
        for name in self._versions:
            for path in self._candidates(name):
                try:
                    listed[path] = self._listed.get(path) or Listed(
                        name,
                        _number(path),
                        *_details(saved_models.read_description(path)),
                    )
                    break
                except Exception as error:  # whatever is wrong with it
                    self._refuse(name, path, error)
        self._listed = listed

    def _find(self, errors) -> dict:
        """name -> the directories of its versions, the highest first.

        Args:
            errors: a dict that gets those of the directories that cannot be
                read.

        Raises:
            OSError: the root cannot be read.
        """
        if self._is_of_one_model:
            paths = saved_models.find_versions(self._root)
            if not paths:
                return {}
            is_version = paths == [self._root] and (
                saved_models.version_number(self._root) is not None
            )
            directory = pathlib.Path(os.path.abspath(self._root))
            name = (directory.parent if is_version else directory).name
            return {self._model_name or name: paths}
        found = {}
        for directory in sorted(self._root.iterdir()):
            # Hidden ones, and those that an export or a copy has not renamed.
            if directory.name.startswith(".") or directory.suffix == ".partial":
                continue
            try:
                paths = directory.is_dir() and saved_models.find_versions(
                    directory
                )
            except FileNotFoundError:  # it was deleted just now
                continue
            except OSError as error:
                errors[directory] = error
                paths = self._versions.get(directory.name)
            if paths:
                found[directory.name] = paths
        return found

    def _note(self, errors) -> None:
        """Writes what is wrong to the log, once as long as it is.

        Args:
            errors: place -> error, all that is wrong now.
        """
        for place, error in errors.items():
            if str(error) != self._noted.get(place):
                _log.warning("%s: %s", place, error)
        self._noted = {place: str(error) for place, error in errors.items()}

    def _next(self, tried):
        """(name, directory) to load next; None: nothing.

        Args:
            tried: those that this update has loaded or refused: files that
                change all the time must not keep it from the others.
        """
        for name in list(self._wanted):
            path = None
            if name not in self._served:
                path = self._newer(name, tried)
            if path:
                return name, path
            self._wanted.pop(name, None)  # it is there, or will never be
        has_room = len(self._served) < self._max_loaded
        for name in sorted(self._versions):
            may_load = has_room or name in self._served
            if may_load and (path := self._newer(name, tried)):
                return name, path
        return None

    def _newer(self, name, tried) -> pathlib.Path | None:
        """The version to load instead of the one that is served, or of none.

        Where that one was deleted, it is the highest of those that are left.
        """
        served = self._served.get(name)
        for path in self._versions.get(name, ()):
            number = _number(path)
            if served and number == served.version:
                return None
            refused = self._refused.get((name, number))
            if (name, path) not in tried and not (
                refused and refused.stamp == _stamp(path)
            ):
                return path
        return None

    def _bring(self, name, path) -> None:
        """Loads a version and serves it, or refuses it."""
        version, old = _number(path), self._served.get(name)
        stamp = _stamp(path)  # before: files may change meanwhile
        self._loading = name, version
        try:
            description = saved_models.read_description(path)
            if not old and len(self._served) >= self._max_loaded:
                self._make_room()
            if self._stopping.is_set():
                return
            before = memory.resident_bytes()
            new = self._load(name, version, description)
        except Exception as error:  # whatever is wrong with it
            self._refuse(name, path, error, stamp)
            return
        finally:
            self._loading = None
        if self._stopping.is_set():
            new.close(0)
            return
        self._asked[name] = time.monotonic()
        if old:
            self._besides.add(old)
        self._served = self._served | {name: new}
        self._refused = {
            key: value
            for key, value in self._refused.items()
            if key != (name, version)
        }
        _settle()
        self._say_ready(new, old, before)
        if old:
            self._let_go(old)

    def _refuse(self, name, path, error, stamp=None) -> None:
        version = _number(path)
        message = str(error).split("\n")[0]
        if not isinstance(error, UserError):
            message = f"{type(error).__name__}: {message}"
        before = self._refused.get((name, version))
        self._refused = self._refused | {
            (name, version): _Refused(message, stamp or _stamp(path))
        }
        if not before or before.message != message:
            _log.error("%s version %s is refused: %s", name, version, message)

    def _say_ready(self, new, old, before) -> None:
        """Writes to the log what is served now."""
        if old:
            what = f"takes over from version {old.version}"
        else:
            names = {*self._versions, *self._served}
            what = f"is ready ({len(self._served)} of {len(names)})"
        what += _growth(before)
        _log.info("%s version %s %s", new.name, new.version, what)
        if old:
            found = version_changes.differences(
                old.description, new.description
            )
            if found:
                _log.warning(
                    "warning: %s version %s is not as version %s was: %s",
                    new.name, new.version, old.version, "; ".join(found),
                )  # fmt: skip

    def _let_go(self, served) -> None:
        """Has a version end that was replaced, in its own time."""

        def close():
            served.close()
            self._besides.discard(served)
            self._has_garbage = True

        threading.Thread(target=close, daemon=True).start()

    def _make_room(self) -> None:
        """Lets go of the model that was asked for least recently.

        It is one in which no text grows, or else it takes no more of them and
        those that are in it end first. Whoever calls another function of it
        keeps what that needs.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not (
            self._stopping.is_set() or self._unload(time.monotonic() > deadline)
        ):
            self._stopping.wait(0.05)
        _settle(everything=True)

    def _unload(self, must) -> bool:
        """Lets go of one model; whether one has gone.

        Args:
            must: whether one with texts in it goes where none is idle.
        """
        now = time.monotonic()
        by_request = sorted(
            self._served.values(), key=lambda one: self._asked[one.name]
        )
        idle = [
            one
            for one in by_request
            if one.is_idle and now - self._asked[one.name] > _STAY_SECONDS
        ]
        if not (idle or must):
            return False
        served = (idle or by_request)[0]
        self._besides.add(served)
        self._served = {
            name: one for name, one in self._served.items() if one is not served
        }
        served.close()
        self._besides.discard(served)
        _log.info("%s version %s makes room", served.name, served.version)
        return True

    def _load(self, name, version, description) -> Served:
        model, batcher = inference.load(description.path), None
        if not description.info.continues_texts:
            _warm_up(model.functions)
        else:
            batcher = scheduler.Batcher(
                model, self._deliver, self._max_waiting, jit_compile=False
            )
            if self._jit_compile and name in self._served:
                self._besides.add(batcher)
                batcher.compile()  # the old version serves meanwhile
                self._besides.discard(batcher)
        return Served(
            name,
            version,
            *_details(description),
            description,
            model,
            batcher,
        )


def _details(description) -> tuple:
    """The task, the time stamp and the card of a version."""
    path = description.path
    return (
        description.task,
        int((path / saved_models.GRAPH_FILE).stat().st_mtime),
        _card(description, saved_models.num_parameters(path)),
    )


def _card(description, num_parameters) -> list[str]:
    """What a model is, in sentences."""
    config, training = description.model_config, description.training
    cell = {"gru": "GRU", "lstm": "LSTM", "simple_rnn": "Simple RNN"}
    layers = description.info.layers.format(
        num_layers=config.num_layers,
        decoder_layers=config.decoder_layers or config.num_layers,
    )
    sentences = [
        f"{'Bidirectional ' * config.bidirectional}{cell[config.cell]} "
        f"{description.task.replace('_', ' ')} of {config.units} units, "
        f"{layers}: {num_parameters:,} parameters, "
        f"{config.vocabulary_size:,} tokens ({description.tokenizer.kind})."
    ]
    if labels := description.entries.get("labels"):
        sentences.append(f"Its classes: {', '.join(labels)}.")
    # A record of another origin may have other entries: nothing depends on it.
    is_record = isinstance(training, dict)
    validation = training.get("validation") if is_record else None
    for text, values in (
        (_TRAINED, training),
        (description.info.quality_text, validation),
    ):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            sentences.append(text.format(**values))
    return sentences


def _warm_up(functions) -> None:
    """Calls the signatures that take texts alone: the first call is slow."""
    for signature in functions.signatures.values():
        inputs = signature.structured_input_signature[1]
        if all(spec.dtype == tf.string for spec in inputs.values()):
            signature(**dict.fromkeys(inputs, tf.constant([""])))


def _settle(everything=False) -> None:
    """Has the garbage collector pass over what is there for long.

    To look through TensorFlow's objects takes it 0.2 s with a model and 0.5 s
    with twelve, in which nobody gets an answer.

    Args:
        everything: whether to look once more through what was there before: a
            model is let go.
    """
    if everything:
        gc.unfreeze()
    gc.collect()
    gc.freeze()
    memory.trim()


def _growth(before) -> str:
    """By how much memory the process has more, where that is known."""
    now = memory.resident_bytes()
    return f", {max(0, now - before) / 1e6:,.0f} MB" if before and now else ""


def _number(path) -> int:
    """The version of a directory; of a SavedModel by itself 1."""
    number = saved_models.version_number(path)
    return 1 if number is None else number


def _stamp(path) -> frozenset:
    """The files of a version as they are now: a change gives another one."""

    def marks():
        for name in ("", "variables", "assets", "assets.extra"):
            directory = path / name
            with contextlib.suppress(OSError):  # it is not there, or not yet
                for one in (directory, *directory.iterdir()):
                    now = one.stat()
                    yield (
                        one, now.st_size, now.st_mtime_ns, now.st_ctime_ns,
                    )  # fmt: skip

    return frozenset(marks())
