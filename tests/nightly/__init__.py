"""What takes minutes: `./run nightly`. A short run of the same code is part of all tests."""
