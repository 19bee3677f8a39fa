"""How fast a launch serves: a step model of one rank (work, rates, step), continuous batching on top (steady
for clients in no order, course for a run of equal requests), answers.

    predict(inputs, inputs.estimate(), Workload(concurrency=32)).to_dict()

Imported only where a speed is asked for: an estimate of memory starts faster without it.
"""

from planner.planning.throughput.predict import Point, Speed, Throughput, curve, knee, predict, sent_together, speed_of

__all__ = ["Point", "Speed", "Throughput", "curve", "knee", "predict", "sent_together", "speed_of"]
