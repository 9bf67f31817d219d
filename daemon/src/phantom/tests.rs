//! Tests of the phantom.
