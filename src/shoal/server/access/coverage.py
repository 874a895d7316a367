"""What a key is for: its models, and the techniques on them."""

from collections.abc import Iterable

from shoal.errors import UsageError
from shoal.server.names import Names, Served
from shoal.server.refusals import Refusal
from shoal.server.settings import KeySettings
from shoal.techniques import TECHNIQUES, find
from shoal.techniques.opening import bases


class Covered:
    """The models and techniques that a key is for."""

    def __init__(self, settings: KeySettings, names: Names, where: str) -> None:
        self.all_models = not settings.models
        self.models = settings.models
        self.whole: dict[str, Served] = {}  # presets and models with techniques: covered as they are
        self.bases: set[object] = set()
        for name in settings.models:
            try:
                served = names.resolve(name)
            except Refusal as refusal:
                raise UsageError(f"{where} models: {refusal}") from None
            if served.base is not None and served.preset is None:
                self.bases.add(served.base)
            else:
                self.whole[name] = served
        self.techniques = None if settings.techniques is None else _slugs(settings.techniques, where)

    def refusal_for(self, served: Served) -> Refusal | None:
        """Why a request for this is not covered; None where it is. Models that an option names count, too."""
        needed, slugs = set[object](bases(served.model)), set(served.slugs)
        whole = self.whole.get(served.name)
        if whole is not None and whole.technique == served.technique:  # with options of the client's it is another
            needed -= set(bases(whole.model))
            slugs -= set(whole.slugs)
        if not self.all_models and not needed <= self.bases:
            return self._no_model(served.name)
        refused = sorted(slugs - self.techniques) if self.techniques is not None else []
        if refused:
            message = f"this key does not cover the technique {refused[0]!r}"
            return Refusal(403, message, kind="permission_error", param="model", code="technique_not_allowed")
        return None

    def _no_model(self, name: str) -> Refusal:
        message = (
            f"this key does not cover the model {name[:200]!r}, or one it asks; it covers {', '.join(self.models)}"
        )
        return Refusal(403, message, kind="permission_error", param="model", code="model_not_allowed")


def _slugs(given: Iterable[str], where: str) -> set[str]:
    slugs = set()
    for name in given:
        entry = find(name)
        if entry is None:
            raise UsageError(f"{where} techniques: there is no technique {name!r}; `shoal techniques` lists them")
        slugs.add(next(slug for slug, other in TECHNIQUES.items() if other is entry))
    return slugs
