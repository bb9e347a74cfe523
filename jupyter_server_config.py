"""Settings of JupyterLab for this project, by `make lab` and by the `jupyter lab` of .venv: see face3d_lib/runs/lab.py."""

import os
import warnings

from face3d_lib.base.paths import ROOT
from face3d_lib.runs import lab

warnings.filterwarnings("ignore", message="Overriding existing pre_save_hook")  # Jupyter sets it twice itself
c = get_config()  # noqa: F821 (Jupyter defines it)
c.ServerApp.root_dir = str(ROOT)  # notebooks, runs and figures are all in sight
c.LabApp.default_url = "/lab/tree/notebooks"
c.FileContentsManager.pre_save_hook = lab.before_save
os.environ["FACE3D_LAB"] = "1"  # notebooks say where their outputs are kept
