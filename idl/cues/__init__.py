"""Which cue does a frozen probe read: its loss on test images with one cue removed, against the clean ones."""
