"""Curvature: the Hessian, Gauss-Newton, Fisher and gradient-covariance matrices by eigenvalues, trace, diagonal."""
