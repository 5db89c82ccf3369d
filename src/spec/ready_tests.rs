//! Heads, parameters, and what a pipeline says of a figure.
