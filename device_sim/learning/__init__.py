"""What a device learns by itself: the detector on its cores, and the A7's care for what was learned."""
