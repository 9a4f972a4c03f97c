"""What `./run bench` prints. Medians and ratios; no test depends on them."""
