"""Evaluation: rankings, agreement, accuracy and the metrics of a run, from files and stores."""
