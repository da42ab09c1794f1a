"""Closed-form fits of weights on unlabelled samples: ridge regression, and refitting after a cut."""
