//! Guests for the tests: each example is a component.
