"""Energy meters: a meter is a profile (data in `profiles/`), not code.

Rules of this folder: a reading is believed or refused, never repaired; integers leave (mA, mW, Wh), floats
never do. Adding a meter is one TOML file and its golden registers in `tests/protocols/test_profile.py`.
"""
