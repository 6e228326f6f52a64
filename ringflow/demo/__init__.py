"""The main job from end to end: waves on a real sea floor, moved and reloaded while they run."""
