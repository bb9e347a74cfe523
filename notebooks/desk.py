"""The page of `make desk`, which Voila runs as a notebook of one cell: the gallery of FACE3D_GALLERY, with the pairs of FACE3D_DATA."""

from face3d_lib.base.environment import data_folder, setting
from face3d_lib.serve.desk_page import page_of_gallery

from IPython.display import Markdown, display

display(Markdown("# Who is this?"), page_of_gallery(setting("FACE3D_GALLERY", "people"), data_folder()))
