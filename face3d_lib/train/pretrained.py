"""Networks that recognise faces without any training by the user: they come with the environment or with this package.

"dlib" sees colour; "depth_synthetic" sees depth and has learnt from synthetic heads alone; "rgbd_synthetic" sees both in one
small network and has learnt from synthetic faces alone. None has seen the user's people. All take crops of alignment mode
"dlib", so that one pack serves them.
"""

from typing import Literal, get_args

from ..base.errors import UserError
from ..base.paths import SHIPPED
from ..data.pack import Pack
from ..data.warp import AlignSettings
from .embedder import Architecture, Embedder
from .model_files import ModelCard, load_model, read_card

Name = Literal["dlib", "depth_synthetic", "rgbd_synthetic"]
ALIGNMENT = AlignSettings("dlib")  # of the crops that they take
NAMES = get_args(Name)


def load_pretrained(name: Name, pack: Pack | None = None, device: str = "cpu") -> Embedder:
    """The network in evaluation mode. UserError: there is no such network, its package is not installed or its file is
    not the released one, or the crops of `pack` were made with another alignment.
    """
    require_name(name)
    if pack is not None and pack.info["source"]["settings_hash"] != ALIGNMENT.hash():
        raise UserError(f"the network {name} takes crops of alignment mode dlib: align with mode = dlib")
    if name == "dlib":
        return Embedder(Architecture(backbone="dlib"), "dlib").to(device).eval()
    return load_model(SHIPPED / name, pack, device=device)[0]


def card_of(name: Name) -> ModelCard:
    """The card of the network, whose list of people is empty. UserError: there is no such network, or no card of it."""
    require_name(name)
    return read_card(SHIPPED / name)


def require_name(name: str) -> None:
    """UserError unless there is a network of this name."""
    if name not in NAMES:
        raise UserError(f"pretrained network {name!r}: one of {', '.join(NAMES)} expected")
