"""Gates: what the evidence of a rollout says, valid at every look.

Every gate is an e-process: a number that starts at 1, that stays small for as long as the release is as good as the
plan demands, and whose chance of ever reaching 1/α is at most α then, however often it is looked at (Ville's
inequality). None is ever reset: not at a new stage, a resume or a restart. Numbers are kept as natural logarithms.

    beta          integrals that the mixtures are made of
    failure_rate  halts on too many failures, passes on few enough
    control       compares events with those of a concurrent control arm
    means         compares means per device: latency, confidence
    kept          what a gate keeps that needs more than counts
    arms          feeds `control`: events of devices in both arms, and silence
    averages      feeds `means`: pairs of devices, one of each arm
    budget        splits the rollout's error budget over its gates
"""
