"""The questions: run the main job, measure the result, draw it and report it."""
