"""Energy meters: a meter is a profile (data in `profiles/`), not code.

Adding a meter is one TOML file and its golden registers in `tests/protocols/test_profile.py`.
"""
