"""What `smoke.py` asks a device, a file for each kind of op or of machinery."""
