"""Face3D: an experiment workbook for RGB-D face recognition. Read the files in the order of the data flow."""

import os
import sys

# Threads of torch's OpenMP (libgomp) spin while they wait for one another. With another busy program on a core this
# costs two thirds of the training speed, so they spin for a moment only and then sleep. libgomp reads the variable
# once, when torch is loaded. It is therefore set before any import of torch, and notebooks import face3d_lib first.
if "torch" not in sys.modules:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
