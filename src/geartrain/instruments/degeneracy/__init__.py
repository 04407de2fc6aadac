"""Degeneracy: directions in which the parameters may move without changing the function.

Parameters and functions do not correspond one to one. A ReLU unit can be rescaled, linear layers can be mixed, a
dead unit's weights are free: a whole family of parameters is one function. Every number that lives in parameter
space (flatness, distance, volume, the count of parameters itself) is to be read up to that.

**What to take.** `jacobian_rank` counts the directions that change the outputs on the data; the rest is free
*there*. `symmetry_orbit_dimension` counts the directions that change nothing on *any* input, and says which of them
have a name (rescaling of units, mixing of linear units, shifts before a softmax or a normalisation, turning queries
against keys and values against outputs). `parameter_symmetry` finds units that are copies of one another and will
stay so, the discrete kind. `volume_scaling` looks beyond straight directions: how fast the volume of nearly optimal
parameters shrinks with the loss allowed.

**The gears: what must agree with what.**

- params = rank on data and random inputs + dimension of the orbit. On the data alone the rank is at most that, and
  at most examples x outputs.
- The rank is the number of non-zero eigenvalues of the tangent kernel (`ntk_spectrum`) and of the Gauss-Newton
  matrix of the squared loss.
- Along an orbit the loss is flat: there are at least as many zero eigenvalues of the Hessian at a minimum as the
  orbit has dimensions. Rescaling along it changes every measure of flatness that is not scale-invariant, and no
  prediction.
- Deep linear networks of narrowest width r: rank r (d_in + d_out - r). Two-layer ReLU networks without dead units:
  one free direction per hidden unit. Cross-entropy adds the shift of all logits: one per input of the last layer,
  and one.
- At a regular minimum of d parameters `volume_scaling` is d/2; each flat direction takes off ½; flatness of higher
  order takes off more (x⁴: ¼ instead of ½). In general it is the learning coefficient λ of singular learning
  theory.

**When they mislead.** A rank needs a gap in the singular values: without one the threshold decides, and the status
says so. A tangent space is the orbit only at generic points; at a product of two zeros it is larger. Symmetries
that an ε breaks (a weight before a normalisation) do not count as exact and are listed as near. A unit that is dead
on every input tried looks like a symmetry; the details count its parameters apart. Volumes in many dimensions hang
on a few lucky directions: the effective number of them is given, and below eight the answer is marked as not
converged. And at a singular minimum the exponent is reached only like 1/ln(1/ε): compare at the same levels, not
with the limit.
"""
