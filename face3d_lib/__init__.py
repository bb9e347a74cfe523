"""Face3D: an experiment workbook for RGB-D face recognition. Read the files in the order of the data flow."""
