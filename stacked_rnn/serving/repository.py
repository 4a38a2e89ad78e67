"""Loading the models of a directory, and replacing them by newer versions.

One thread scans the directory and loads (`Repository.update`); any thread looks
models up. Attributes that other threads read are replaced, never changed in
place.
"""

import dataclasses
import logging
import math
import pathlib
import threading
import time

from stacked_rnn import inference, saved_models, version_changes
from stacked_rnn.configs import UserError
from stacked_rnn.inference import language_model
from stacked_rnn.serving import (
    memory,
    model_directory,
    scheduler,
    served_model,
    tf_serving,
)
from stacked_rnn.serving.model_directory import ModelDirectory, version_of
from stacked_rnn.serving.model_listing import ListedModel
from stacked_rnn.serving.served_model import ServedModel

_log = logging.getLogger(__name__)

# With --max_loaded, a model stays for at least this long after a request, so
# that a client that waited for it finds it.
_STAY_SECONDS = 1.0
# How long to look for an idle model to unload. After that, the one requested
# least recently is unloaded once its sequences have ended.
_PATIENCE_SECONDS = 5.0


class NotReadyError(Exception):
    """A model was found, but is not loaded yet.

    Attributes:
        is_on_demand: whether the request for it makes it load, so that the
            caller should ask again until it is ready. False while the server
            starts, or where the model has just appeared.
    """

    def __init__(self, name, is_on_demand):
        super().__init__(
            f"The model {name!r} is being loaded: try again in a few seconds"
        )
        self.is_on_demand = is_on_demand


@dataclasses.dataclass(frozen=True)
class _Refusal:
    """The reason why a version was not loaded.

    Attributes:
        message: the error.
        file_stamps: see `model_directory.file_stamps`, at that time.
    """

    message: str
    file_stamps: frozenset


class Repository:
    """The models below a directory, each in the highest version that loads.

    A version that cannot be loaded is refused, and tried again when its files
    change; the version below it is served. One whose weights are replaced is
    loaded again. A model whose directory is deleted is served until the server
    stops.

    Args:
        saved_model, model_name: see `ModelDirectory`.
        deliver, max_waiting, cache_bytes: see `Scheduler`.
        jit_compile: whether to compile the models with XLA, see
            `Scheduler.compile`.
        max_loaded: most models in memory at a time; 0: all. Another model is
            loaded when it is requested, and replaces the one requested least
            recently. A new version is loaded beside the one that it replaces.

    Attributes:
        is_settled: whether the first `update` has ended: each model found at
            the start is loaded, refused, or left until it is requested.

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
        cache_bytes=0,
    ):
        self._directory = ModelDirectory(saved_model, model_name)
        self._deliver, self._max_waiting = deliver, max_waiting
        self._jit_compile, self._cache_bytes = jit_compile, cache_bytes
        self._max_loaded = max_loaded or math.inf
        self.is_settled = False
        self._listed = {}  # directory -> ListedModel
        self._served = {}  # name -> ServedModel
        self._refused = {}  # (name, version) -> _Refusal
        self._refused_before = {}  # the same, before the last scan
        self._loading = None  # (name, version)
        self._wanted = {}  # names of requested models in order; values unused
        self._requested = {}  # name -> time.monotonic() of the last request
        self._unserved = set()  # schedulers and models that `close` must end
        self._has_garbage = False
        self._stopping, self._woken = threading.Event(), threading.Event()
        self._threads = {}  # "update" or "compile" -> the latest thread

    # For any thread -----------------------------------------------------------

    def __getitem__(self, name) -> ServedModel:
        """Looks a model up for a request.

        Raises:
            NotReadyError: it is not loaded yet.
            KeyError: there is none, or all its versions were refused.
        """
        if served := self._served.get(name):
            self._requested[name] = time.monotonic()
            return served
        if not self._candidates(name):
            raise KeyError(name)
        is_limited = self._max_loaded < math.inf
        if is_limited:
            self._requested[name] = time.monotonic()
            self._wanted.setdefault(name)
            self._woken.set()
        is_stopping = self._stopping.is_set()
        raise NotReadyError(
            name, is_limited and self.is_settled and not is_stopping
        )

    def __contains__(self, name) -> bool:
        """Whether a model of this name was found, ready or not."""
        return name in self._directory.versions or name in self._served

    def has_wide_models(self) -> bool:
        """Whether several cores are of use for a step of some model.

        It does not initialize TensorFlow.
        """
        return any(
            saved_models.num_units(newest) >= language_model.WIDE
            for newest, *_ in self._directory.versions.values()
        )

    def __iter__(self):
        """Iterates over the models that are ready, sorted by name."""
        return iter(sorted(self._served.values(), key=lambda one: one.name))

    def listed(self):
        """Iterates over the models that are ready or load on demand, by name.

        Yields `ListedModel`s.
        """
        found = {
            name: self._listed.get(path)
            for name in self._directory.versions
            for path in self._candidates(name)[:1]
        }
        found |= self._served
        return iter([found[name] for name in sorted(found) if found[name]])

    def describe(self, name) -> ListedModel:
        """Looks up an entry of `listed`, without loading the model.

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
        """The states of a model's versions, in TensorFlow Serving's words.

        Returns:
            version -> (state, error code, error message).

        Raises:
            KeyError: there is no such model.
        """
        states = {
            version: ("END", "INVALID_ARGUMENT", refusal.message)
            for (refused_name, version), refusal in self._refused.items()
            if refused_name == name
        }
        served, loading = self._served.get(name), self._loading
        if served:
            states[served.version] = ("AVAILABLE", "OK", "")
        elif paths := self._candidates(name):
            is_next = self._max_loaded == math.inf or name in self._wanted
            state = "LOADING" if is_next else "START"
            states[version_of(paths[0])] = (state, "OK", "")
        if loading and loading[0] == name:
            states[loading[1]] = ("LOADING", "OK", "")
        if not states:
            raise KeyError(name)
        return states

    def _candidates(self, name) -> list:
        """Directories of the versions that were not refused, highest first."""
        return [
            path
            for path in self._directory.versions.get(name, ())
            if (name, version_of(path)) not in self._refused
        ]

    # For the thread that loads ------------------------------------------------

    def update(self) -> None:
        """Scans the directory, and loads new versions in place of old ones.

        Requests go to the old version until the new one is ready. Models that
        a request waits for come first.
        """
        if self._has_garbage:
            self._has_garbage = False
            memory.collect_garbage(include_frozen=True)
        self._scan()
        tried = set()
        while not self._stopping.is_set():
            if not (target := self._next_to_load(tried)):
                self.is_settled = True
                self._start_compiling()
                return
            tried.add(target)
            self._serve(*target)

    def watch(self, seconds) -> None:
        """Starts a thread that updates every `seconds`.

        It also updates at once when a request waits for a model on demand.
        """

        def keep_updating():
            logged = ""
            while not self._stopping.is_set():
                self._woken.wait(seconds)
                self._woken.clear()
                try:
                    self.update()
                    logged = ""
                except Exception as error:  # the next update may succeed
                    if repr(error) != logged:
                        _log.exception("updating the models failed: retrying")
                    logged = repr(error)

        self._start("update", keep_updating)

    def _start(self, name, target) -> None:
        thread = threading.Thread(target=target, daemon=True)
        self._threads[name] = thread
        thread.start()

    def _start_compiling(self) -> None:
        """Starts a thread that compiles one model after the other with XLA."""
        last = self._threads.get("compile")
        if not self._jit_compile or (last and last.is_alive()):
            return
        if any(not served.is_compiled for served in self):
            self._start("compile", self._compile)

    def _compile(self) -> None:
        while not self._stopping.is_set():
            served = next((one for one in self if not one.is_compiled), None)
            if not served:
                return
            before, start = memory.resident_bytes(), time.monotonic()
            served.scheduler.compile()
            memory.trim()
            seconds = time.monotonic() - start
            if seconds >= 1:  # else it shares the code of another model
                _log.info(
                    "%s version %s was compiled in %.0f s%s", served.name,
                    served.version, seconds, memory.growth_since(before),
                )  # fmt: skip

    def stop(self) -> None:
        """Stops loading, after the model that is being loaded."""
        self._stopping.set()
        self._woken.set()

    def close(self, seconds) -> None:
        """Stops accepting sequences; cuts running ones off after `seconds`.

        Also waits until TensorFlow has loaded or compiled what it is at:
        exiting the process meanwhile would crash it.
        """
        self.stop()
        closing = [
            threading.Thread(target=one.close, args=[seconds])
            for one in (*self._served.values(), *list(self._unserved))
        ]
        for thread in closing:
            thread.start()
        for thread in (*closing, *list(self._threads.values())):
            thread.join()

    def _scan(self) -> None:
        """Finds versions, forgets outdated refusals, makes the list."""
        self._directory.scan()
        refused = self._refused_before = self._refused
        self._refused = {
            key: refused[key]
            for name, paths in self._directory.versions.items()
            for path in paths
            if (key := (name, version_of(path))) in refused
            and refused[key].file_stamps == model_directory.file_stamps(path)
        }
        if self._max_loaded < math.inf:
            self._list()

    def _list(self) -> None:
        """Makes the entries of all models, loaded or not."""
        listed = {}
        for name in self._directory.versions:
            for path in self._candidates(name):
                entry = self._listed.get(path)
                if not entry or entry.fingerprint != saved_models.fingerprint(
                    path
                ):
                    file_stamps = model_directory.file_stamps(path)
                    try:
                        entry = ListedModel.from_description(
                            name,
                            version_of(path),
                            saved_models.read_description(path),
                        )
                    except Exception as error:  # a damaged file raises anything
                        self._refuse(name, path, error, file_stamps)
                        continue
                listed[path] = entry
                break
        self._listed = listed

    def _next_to_load(self, tried):
        """The (name, directory) to load next, or None.

        Args:
            tried: set of those that this update has loaded or refused. They are
                skipped: files that change all the time must not keep other
                models from loading.
        """
        for name in list(self._wanted):
            if name not in self._served and (
                path := self._version_to_load(name, tried)
            ):
                return name, path
            self._wanted.pop(name, None)  # it is loaded, or cannot be
        has_room = len(self._served) < self._max_loaded
        for name in sorted(self._directory.versions):
            may_load = has_room or name in self._served
            if may_load and (path := self._version_to_load(name, tried)):
                return name, path
        return None

    def _version_to_load(self, name, tried) -> pathlib.Path | None:
        """The version that should replace the one that is served, or None.

        The highest one that loads; where the served version was deleted, that
        may be a lower one, or another one of its number.
        """
        served = self._served.get(name)
        for path in self._directory.versions.get(name, ()):
            key = name, version_of(path)
            is_served = served and served.version == version_of(path)
            if is_served and saved_models.fingerprint(path) in (
                served.fingerprint, None,
            ):  # fmt: skip
                return None
            if (name, path) not in tried and key not in self._refused:
                return path
            if is_served:
                return None
        return None

    def _serve(self, name, path) -> None:
        """Loads a version and serves it, or refuses it."""
        version, old = version_of(path), self._served.get(name)
        file_stamps = model_directory.file_stamps(path)  # files may change
        self._loading = name, version
        try:
            description = saved_models.read_description(path)
            if not old and len(self._served) >= self._max_loaded:
                self._make_room()
            if self._stopping.is_set():
                return
            before = memory.resident_bytes()
            new = self._load(name, version, description)
        except Exception as error:  # a damaged file raises anything
            self._refuse(name, path, error, file_stamps)
            return
        finally:
            self._loading = None
        if self._stopping.is_set():
            new.close(0)
            return
        self._requested[name] = time.monotonic()
        if old:
            self._unserved.add(old)
        self._served = self._served | {name: new}
        memory.collect_garbage()
        self._log_ready(new, old, before)
        if old:
            self._retire(old)

    def _refuse(self, name, path, error, file_stamps) -> None:
        version = version_of(path)
        message = str(error).split("\n")[0]
        if not isinstance(error, UserError):
            message = f"{type(error).__name__}: {message}"
        before = self._refused_before.get((name, version))
        self._refused = self._refused | {
            (name, version): _Refusal(message, file_stamps)
        }
        if not before or before.message != message:
            _log.error("%s version %s is refused: %s", name, version, message)

    def _log_ready(self, new, old, before) -> None:
        """Logs that a model is ready, and warns of differences from `old`."""
        found = []
        if old:
            event = f"takes over from version {old.version}"
            found = version_changes.differences(
                old.model.description, new.model.description
            )
        else:
            names = {*self._directory.versions, *self._served}
            event = f"is ready ({len(self._served)} of {len(names)})"
        event += memory.growth_since(before)
        _log.info("%s version %s %s", new.name, new.version, event)
        if found:
            _log.warning(
                "warning: %s version %s differs from version %s: %s",
                new.name, new.version, old.version, "; ".join(found),
            )  # fmt: skip

    def _retire(self, served) -> None:
        """Closes a replaced version in a thread, once its sequences end."""

        def close():
            served.close()
            self._unserved.discard(served)
            self._has_garbage = True

        threading.Thread(target=close, daemon=True).start()

    def _make_room(self) -> None:
        """Unloads the model that was requested least recently.

        An idle one if there is any. Else, after `_PATIENCE_SECONDS`, one that
        then accepts no more sequences and ends those that it has. A request
        that calls another signature keeps the model alive until it ends.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not (
            self._stopping.is_set() or self._unload(time.monotonic() > deadline)
        ):
            self._stopping.wait(0.05)
        memory.collect_garbage(include_frozen=True)

    def _unload(self, is_urgent) -> bool:
        """Unloads one model; returns whether it did.

        Args:
            is_urgent: whether to unload a busy one if none is idle.
        """
        now = time.monotonic()
        by_request = sorted(
            self._served.values(), key=lambda one: self._requested[one.name]
        )
        idle = [
            one
            for one in by_request
            if one.is_idle and now - self._requested[one.name] > _STAY_SECONDS
        ]
        if not (idle or is_urgent):
            return False
        served = (idle or by_request)[0]
        self._unserved.add(served)
        self._served = {
            name: one for name, one in self._served.items() if one is not served
        }
        served.close()
        self._unserved.discard(served)
        _log.info("%s version %s makes room", served.name, served.version)
        return True

    def _load(self, name, version, description) -> ServedModel:
        model = inference.from_description(description)
        served = ServedModel.from_description(
            name,
            version,
            description,
            metadata=tf_serving.metadata(description.path, name, version),
            model=model,
        )
        if not description.info.continues_texts:
            served_model.warm_up(model.functions)
            return served
        sequences = scheduler.Scheduler(
            model, self._deliver, self._max_waiting, self._cache_bytes
        )
        if self._jit_compile and name in self._served:
            self._unserved.add(sequences)
            sequences.compile()  # the old version serves meanwhile
            self._unserved.discard(sequences)
        return dataclasses.replace(served, scheduler=sequences)
