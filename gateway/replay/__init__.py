"""
What a policy would have done: a discrete-event simulation around the gateway's own parts.

The fleet, its leases, the placement index and the policies are those that serve; they are given a
virtual clock and a seeded random. What stands behind the endpoints is modelled: `replica.py` is an
engine with continuous batching and a prefix cache, `hosted.py` a provider's API. docs/replay.md
says what that leaves out.
"""
