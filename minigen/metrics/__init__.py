"""Measuring samples: distances between feature clouds, copies of the training set, and a fixed trained ruler."""
