"""Which sequences go together, and how packs of them run on a device or several."""
