"""How a kernel is cut into regions that can be resumed.

- A region is the blocks reachable from a resume point without crossing a suspension.
- Resume points: the entry, what follows a barrier or a warp collective, headers of loops.
"""
