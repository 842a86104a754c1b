"""``gnomon view``: a folder of runs in the browser, while they run."""
