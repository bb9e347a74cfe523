"""Read by JupyterLab when it starts in this folder (`make lab`): see face3d_lib/runs/lab.py for what it keeps clean."""

import os

from face3d_lib.base.paths import ROOT
from face3d_lib.runs import lab

c = get_config()  # noqa: F821 (Jupyter defines it)
c.ServerApp.root_dir = str(ROOT)  # notebooks, runs and figures are all in sight
c.LabApp.default_url = "/lab/tree/notebooks"
c.FileContentsManager.pre_save_hook = lab.before_save
os.environ["FACE3D_LAB"] = "1"  # notebooks say where their outputs are kept
