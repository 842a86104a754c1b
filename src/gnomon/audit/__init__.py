"""What is wrong with a run: detectors over its records. None trains or reads the true reward."""
