"""The demo: summary statistics of patients at three hospitals, whose records stay at home."""
