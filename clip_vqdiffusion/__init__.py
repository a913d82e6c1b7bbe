__version__ = "0.1.0"

# What most users need, imported when it is first asked for: `from clip_vqdiffusion import CLIPVQDiffusion`.
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .clip import load_clip as load_clip
    from .pipeline import CLIPGenPipeline as CLIPGenPipeline
    from .pipeline import CLIPVQDiffusion as CLIPVQDiffusion
    from .pipeline import PipelineOutput as PipelineOutput

_WHERE = dict(CLIPVQDiffusion="pipeline", CLIPGenPipeline="pipeline", PipelineOutput="pipeline", load_clip="clip")
__all__ = ["CLIPGenPipeline", "CLIPVQDiffusion", "PipelineOutput", "load_clip", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module
    found = getattr(import_module("." + _WHERE[name], __name__), name)
    if "Pipeline" in name or name == "CLIPVQDiffusion": import_module(".editing", __name__)  # gives the pipelines their verbs
    return found


def __dir__() -> list[str]: return sorted({*globals(), *_WHERE})
