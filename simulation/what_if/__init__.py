"""What a plan will do, asked beforehand: the rollout engine under a virtual clock against a synthetic fleet.

    fleet      kinds of devices, how soon they hear of a release, and how it ends on them
    places     who waits until another device of its site has ended its update
    retrying   how it ends where failed devices are given it again
    sampling   what becomes of devices that are let in: each drawn for itself, or many at once
    course     one rollout from its start to its end, by the engine's own code
    answer     many rollouts, and what they say of the plan
    limits     what of a plan an answer does not show
    policies   the plans of other update servers, for the same engine
    compare    one table: policies and what goes wrong
    page       the answer as a page and as a picture

Not in it: networks, signatures, the database (see `simulation.run` for those), metrics of models after their
confirmation, and people: a rollout that asks a person has ended here.
"""
