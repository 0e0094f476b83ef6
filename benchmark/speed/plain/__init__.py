"""The plain reference: every unit of work as the authors' loops do it, in code of this suite's own.

Eager autograd; one class and one network after the other; one graph over all that a step computes; every operation of
the augmentation a torch call of its own; layers as the library has them. Two wastes of the authors' programs are left
out, so that the comparison is not flattering: no DataLoader hands over single images, and real features are cut from
the graph at once.

Everything random is drawn from the task's generator as the methods draw it. From one seed a plain step and a method's
step therefore see the same numbers, and tests hold the one against the other.
"""
