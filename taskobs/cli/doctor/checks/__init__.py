"""The checks of ``taskobs doctor``: functions from the evidence to one finding."""
