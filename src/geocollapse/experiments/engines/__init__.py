"""Engines that carry out the runs of a sweep: worker processes of this machine."""
