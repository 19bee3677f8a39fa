"""`make bench`: what a person waits for, against what is promised. Absolute figures depend on the machine; ratios less.

`python -m benchmarks.cpu_engine` measures a real engine, which takes minutes.
"""

from benchmarks import gate, in_process, prediction, shell

if __name__ == "__main__":
    in_process.main()
    prediction.main()
    shell.main()
    gate.main()
