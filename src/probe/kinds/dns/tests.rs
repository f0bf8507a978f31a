//! Reading, in pieces.
