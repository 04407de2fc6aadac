"""Alignment: overlaps between the eigenbases of curvature, gradient covariance and the gradient.

How sharp the loss is says little without knowing *where*: gradients, noise and curvature each pick out a few of
very many directions, and much of the theory of training rests on whether these are the same ones. If the noise
of small batches lies where the loss is sharp, it acts like a regulariser; if the gradient lies there too, most
of each step is spent on directions that are already settled.

**Which instrument.** `eigenbasis_overlap` compares the leading eigenspaces of two matrices (the Hessian and the
gradient covariance unless asked otherwise): 1 for the same space. `commutator_norm` asks for more, the same
eigenvectors throughout: 0 if there is a common eigenbasis. `gradient_in_top_subspace` is the gradient's share
in the sharpest directions, `gradient_negative_overlap` its share in those of negative curvature.

**Beside chance.** In n dimensions random directions are nearly orthogonal, so 1 % of overlap may be a hundred
times more than nothing. Every answer carries what random subspaces or randomly turned matrices would show, and
the overlaps how many standard deviations (`z`) they are from that, in closed form.

**Gears that must agree.** A commutator of zero with eigenvalues that are all different means overlaps that are
multiples of 1/k, and overlaps of 1 for every k a commutator of zero. `curvature_along_gradient` is the mean of
the eigenvalues weighted by the gradient's shares, so that a share s in directions of curvature at least λ
bounds it from below by sλ where nothing is negative. The shares above, below and near zero sum to one.

**When they mislead.** An eigenspace is only defined where a gap follows its last eigenvalue. The bound of Davis
and Kahan (residual over gap) is therefore computed with every overlap; where it says nothing the answer says
so, and another k may do better. Thin matrices commute although they share nothing: read `commutator_norm`
beside the overlap and its chance level. And alignment measured on one sample of the data is partly the sample's
own: Hessian, covariance and gradient of the same few examples agree with one another better than with those of
others.
"""
