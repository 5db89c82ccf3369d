//! Tests of the oracle by hand.
