//! Simulation, machine and whole-system tests, and the tiny guests they boot.
